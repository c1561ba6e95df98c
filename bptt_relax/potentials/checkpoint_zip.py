"""Read torch checkpoints without torch and without running anything they contain.

A checkpoint is a zip archive: ``<folder>/data.pkl`` describes the objects, ``<folder>/data/<key>`` holds the raw
bytes of each tensor. A pickle can name any importable function and call it; this reader knows three names, all
answered by its own code, and refuses the file at the first other one.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bptt_relax.outcomes import ModelError

MAX_FILE_BYTES = 1 << 30
MAX_PICKLE_BYTES = 1 << 26
MAX_MEMBERS = 100_000


class _Storage(NamedTuple):
    """The numbers of one tensor storage."""

    values: np.ndarray


def read(data: bytes, origin: str | Path) -> Any:
    """The object stored in a torch zip checkpoint; tensors become float32 numpy arrays.

    Args:
        data: the whole file.
        origin: what messages call it.

    Raises:
        ModelError: not such an archive, cut off, too large, or naming anything but dictionaries and float32
            tensors.
    """
    refuse_obvious(data, origin)
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        return _unpickle(archive, origin)
    except (zipfile.BadZipFile, EOFError, KeyError, IndexError, pickle.UnpicklingError, ValueError) as error:
        raise ModelError(f"{origin} is a broken checkpoint ({error}): fetch it again") from error


def refuse_obvious(data: bytes, origin: str | Path) -> None:
    """Say what a file is when it is one of the usual things found in place of weights.

    Raises:
        ModelError: empty file, git-LFS pointer, web page, bare pickle, too large, or no zip archive.
    """
    head = data[:512].lstrip()
    if not data:
        reason = "is empty: fetch it again"
    elif head.startswith(b"version https://git-lfs"):
        reason = "is a git-LFS pointer, not the weights: run `git lfs pull` where it came from"
    elif head.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        reason = "is a web page, not the weights: the download was answered by an error or login page"
    elif data[:1] == b"\x80":
        reason = (
            "is a bare pickle, which can run code when loaded: convert it to .safetensors where you trust it"
        )
    elif len(data) > MAX_FILE_BYTES:
        reason = f"has {len(data)} bytes, more than the {MAX_FILE_BYTES} this reader accepts"
    elif data[:4] != b"PK\x03\x04":
        reason = "is not a zip archive, so not a torch checkpoint or a wheel: check the path"
    else:
        return
    raise ModelError(f"{origin} {reason}")


def _unpickle(archive: zipfile.ZipFile, origin: str | Path) -> Any:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS or sum(m.file_size for m in members) > MAX_FILE_BYTES:
        raise ModelError(f"{origin} unpacks to more than this reader accepts")
    pickles = [m for m in members if m.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise ModelError(f"{origin} is a zip archive but not a torch checkpoint: it needs one data.pkl")
    folder = pickles[0].filename.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order).strip() != b"little":
        raise ModelError(f"{origin} was written on a big-endian machine, which this reader does not know")
    return _Unpickler(archive, folder, origin).load()


class _Unpickler(pickle.Unpickler):
    """Unpickler for which only dictionaries and float32 tensors exist."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, origin: str | Path):
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self.archive, self.folder, self.origin = archive, folder, origin
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The three known names; anything else is refused."""
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch", "FloatStorage"): "FloatStorage",  # only ever an argument, so a word is enough
        }
        if (module, name) not in known:
            raise ModelError(
                f"{self.origin} asks for {module}.{name}; only plain float32 weights are read, because a pickle "
                "can run code: convert it to .safetensors where you trust it"
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage ('storage', 'FloatStorage', key, device, number of values)."""
        kind, type_name, key, _, count = pid
        if kind != "storage" or type_name != "FloatStorage" or not str(key).isalnum():
            raise ModelError(f"{self.origin} holds {pid!r}; only float32 storages are read")
        if key not in self.storages:
            values = np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), "<f4")
            if values.size != count:
                raise ModelError(f"{self.origin}: tensor {key} is cut off ({values.size} of {count} numbers)")
            self.storages[key] = _Storage(values)
        return self.storages[key]


def _rebuild_tensor(storage: _Storage, offset: int, shape: tuple, stride: tuple, *_: Any) -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    contiguous = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
    if any(n < 0 for n in shape) or offset < 0 or offset + count > storage.values.size:
        raise ValueError("a tensor reaches outside its storage")
    if count > 1 and any(n > 1 and s != c for n, s, c in zip(shape, stride, contiguous, strict=True)):
        raise ValueError("a tensor is not contiguous")
    return storage.values[offset : offset + count].reshape(shape)
