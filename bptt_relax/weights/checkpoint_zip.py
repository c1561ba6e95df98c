"""Read and write torch checkpoints without torch, and without running anything they contain.

A checkpoint is a zip archive: ``<folder>/data.pkl`` describes the objects, ``<folder>/data/<key>`` holds the raw
bytes of each tensor. A pickle can name any importable function and call it; this reader knows a few names, of what
builds dictionaries, float32 tensors and plain numpy arrays, all answered by its own code, and refuses the file at the
first other one.
"""

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bptt_relax.outcomes import InputError
from bptt_relax.weights.published import MAX_FILE_BYTES, refuse_disguised

MAX_PICKLE_BYTES = 1 << 26
MAX_MEMBERS = 100_000

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    ValueError,
    NotImplementedError,
)
"""What zipfile, pickle and the code below raise on a file that is not what it says."""


class _Storage(NamedTuple):
    """The numbers of one tensor storage."""

    values: np.ndarray


def read(data: bytes, origin: str | Path) -> Any:
    """The object stored in a torch zip checkpoint; tensors become float32 numpy arrays, devices their names.

    Args:
        data: the whole file.
        origin: what messages call it.

    Raises:
        InputError: not such an archive, cut off, too large, or naming anything but dictionaries, float32 tensors and
            plain numpy arrays.
    """
    refuse_disguised(data, origin)
    if data[:4] != b"PK\x03\x04":
        raise InputError(f"{origin} is not a zip archive, so not a torch checkpoint: check the path")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        return _unpickle(archive, origin)
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(f"{origin} is a broken checkpoint ({error}): fetch it again") from error


def _unpickle(archive: zipfile.ZipFile, origin: str | Path) -> Any:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS or sum(m.file_size for m in members) > MAX_FILE_BYTES:
        raise InputError(f"{origin} unpacks to more than this reader accepts")
    pickles = [m for m in members if m.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise InputError(f"{origin} is a zip archive but not a torch checkpoint: it needs one data.pkl")
    folder = pickles[0].filename.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order).strip() != b"little":
        raise InputError(f"{origin} was written on a big-endian machine, which this reader does not know")
    return _Unpickler(archive, folder, origin).load()


def write(content: Any) -> bytes:
    """A torch zip checkpoint of plain values: what `read` reads and ``torch.load`` loads, weights only too.

    Args:
        content: dictionaries of text or numbers, lists, tuples, text, numbers, None, and arrays, which become float32
            tensors.
    """
    tensors: list[np.ndarray] = []
    data = b"\x80\x02" + _pickle(content, tensors) + b"."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes) -> None:
            # A fixed date: the same weights make the same file.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)

        add("data.pkl", data)
        add("byteorder", b"little")
        for key, values in enumerate(tensors):
            add(f"data/{key}", values.tobytes())
        add("version", b"3\n")
    return file.getvalue()


def _pickle(value: Any, tensors: list[np.ndarray]) -> bytes:
    """Opcodes of protocol 2 that make one value; arrays are appended to ``tensors`` and referred to by number.

    By hand, because Python's own pickler refuses to name torch's functions where torch isn't installed.
    """
    if isinstance(value, np.ndarray):
        return _pickle_tensor(np.ascontiguousarray(value, "<f4"), tensors)
    if isinstance(value, dict):
        items = b"".join(_pickle(k, tensors) + _pickle(v, tensors) for k, v in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list | tuple):
        items = b"".join(_pickle(v, tensors) for v in value)
        return b"](" + items + b"e" if isinstance(value, list) else b"(" + items + b"t"
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        number = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + struct.pack("<B", len(number)) + number
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    raise TypeError(f"a checkpoint can't hold {value!r}")


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in numbers, of a contiguous tensor; numpy's own may be anything along an axis of length one."""
    return tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))


def _pickle_tensor(values: np.ndarray, tensors: list[np.ndarray]) -> bytes:
    key, strides = str(len(tensors)), _contiguous(values.shape)
    tensors.append(values)
    parts = (_pickle(part, tensors) for part in ("storage", key, "cpu", values.size))
    kind, name, device, count = parts
    storage = b"(" + kind + b"ctorch\nFloatStorage\n" + name + device + count + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    shape, stride = _pickle(values.shape, tensors), _pickle(strides, tensors)
    arguments = storage + _pickle(0, tensors) + shape + stride + _pickle(False, tensors) + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


class _Unpickler(pickle.Unpickler):
    """Unpickler for which only dictionaries, float32 tensors and plain numpy arrays exist."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, origin: str | Path):
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self.archive, self.folder, self.origin = archive, folder, origin
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The known names; anything else is refused."""
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch", "FloatStorage"): "FloatStorage",  # only ever an argument, so a word is enough
            ("torch", "device"): _device,
            ("numpy", "ndarray"): "ndarray",  # likewise
            ("numpy", "dtype"): _NumberType,
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("_codecs", "encode"): _to_bytes,
        }
        if (module, name) not in known:
            raise InputError(
                f"{self.origin} asks for {module}.{name}; only plain float32 weights are read, because a pickle "
                "can run code: convert it to .safetensors where you trust it"
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage ('storage', 'FloatStorage', key, device, number of values)."""
        kind, type_name, key, _, count = pid
        if kind != "storage" or type_name != "FloatStorage" or not str(key).isalnum():
            raise InputError(f"{self.origin} holds {pid!r}; only float32 storages are read")
        if key not in self.storages:
            values = np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), "<f4")
            if values.size != count:
                raise InputError(f"{self.origin}: tensor {key} is cut off ({values.size} of {count} numbers)")
            self.storages[key] = _Storage(values)
        return self.storages[key]


class _NumberType:
    """What a pickle says of the numbers of an array; only floats, integers and booleans are known."""

    def __init__(self, code: str, *_: Any):
        if code not in ("f4", "f8", "i4", "i8", "b1"):
            raise ValueError(f"an array holds {code!r}, which is no plain number")
        self.dtype = np.dtype(f"<{code}" if code != "b1" else "?")

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", "|"):
            raise ValueError("an array has the byte order of another machine")


class _PickledArray(np.ndarray):
    """An array in the making: pickles make it empty and fill it in a second step."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _NumberType) or not isinstance(content, bytes):
            raise ValueError("an array does not hold plain numbers")
        values = np.frombuffer(content, kind.dtype)
        # numpy checks that bytes and shape belong together.
        filled = np.reshape(values, shape, order="F" if fortran else "C")
        state = (1, filled.shape, filled.dtype, False, filled.tobytes())
        # numpy's stubs ask for a boolean of its own, which its code refuses.
        super().__setstate__(state)  # pyright: ignore[reportArgumentType]


def _empty_array(*_: Any) -> np.ndarray:
    return np.empty(0).view(_PickledArray)


def _to_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes are written as {encoding!r}")
    return text.encode("latin1")


def _device(name: str, *_: Any) -> str:
    return str(name)


def _rebuild_tensor(storage: _Storage, offset: int, shape: tuple, stride: tuple, *_: Any) -> np.ndarray:
    if offset < 0 or len(shape) != len(stride) or any(n < 0 for n in (*shape, *stride)):
        raise ValueError("a tensor has an impossible shape")
    if 0 in shape:
        return np.zeros(shape, np.float32)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if last >= storage.values.size:
        raise ValueError("a tensor reaches outside its storage")
    bytes_per_step = [storage.values.itemsize * s for s in stride]
    view = np.lib.stride_tricks.as_strided(storage.values[offset:], shape, bytes_per_step, writeable=False)
    return np.ascontiguousarray(view).reshape(shape)
