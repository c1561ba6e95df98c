"""Weights on disk: safetensors files that say which model they belong to, and the cache of converted ones."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.potentials.checkpoint_zip import refuse_obvious

FORMAT = "bptt_relax weights 1"


class Weights(NamedTuple):
    """Weights under their published names.

    Attributes:
        model: registry name of the model they belong to (or were fine-tuned from).
        arguments: settings of the model, plain JSON.
        arrays: name -> float32 array.
    """

    model: str
    arguments: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write(path: str | Path, weights: Weights) -> None:
    """Write a .safetensors file whole or not at all.

    Args:
        path: where; replaced if it exists.
        weights: what.
    """
    path = Path(path)
    metadata = {"format": FORMAT, "model": weights.model, "arguments": json.dumps(weights.arguments)}
    data = serialize({k: np.ascontiguousarray(v, np.float32) for k, v in weights.arrays.items()}, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with staging.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def read(path: str | Path) -> Weights:
    """Read a file that `write` wrote.

    Raises:
        InputError: no such file.
        ModelError: not a safetensors file, cut off, or without this package's description.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights at {path}: check the path")
    with path.open("rb") as file:
        head = file.read(512)
    if not head or head.lstrip().startswith((b"version https://git-lfs", b"<")) or head[:1] == b"\x80":
        refuse_obvious(head, path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({error}): copy or fetch it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"{path} was not written by this package (format {metadata.get('format')!r}, needed {FORMAT!r}): "
            "save weights with potentials.save"
        )
    return Weights(metadata["model"], json.loads(metadata["arguments"]), arrays)


def cache_folder() -> Path:
    """Where converted weights are kept: $BPTT_RELAX_CACHE, else bptt_relax in the user's cache folder."""
    if chosen := os.environ.get("BPTT_RELAX_CACHE"):
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "bptt_relax"


def read_cached(model: str) -> Weights | None:
    """Cached weights of a model, or None where there are none.

    Raises:
        ModelError: what is cached is broken.
    """
    folder = cache_folder() / model
    if not folder.is_dir():
        return None
    path, manifest_path = folder / "weights.safetensors", folder / "manifest.json"
    fix = f"delete the folder {folder} and load {model} again"
    try:
        expected = json.loads(manifest_path.read_text(encoding="utf-8"))["weights_sha256"]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the cached weights in {folder} can't be read ({error}): {fix}") from error
    if found != expected:
        raise ModelError(
            f"{path} does not match its manifest (sha256 {found[:12]}..., not {expected[:12]}...): {fix}"
        )
    return read(path)


def write_cache(weights: Weights, manifest: Mapping[str, Any], licence: str) -> None:
    """Keep converted weights, their manifest and their licence; whole or not at all.

    A cache that can't be written costs a conversion next time and nothing else, so that is not an error.

    Args:
        weights: to keep, under their model's name.
        manifest: what to note beside them.
        licence: text of the licence or notice.
    """
    folder = cache_folder() / weights.model
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{weights.model}."))
    except OSError:
        return
    try:
        path = staging / "weights.safetensors"
        write(path, weights)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        note = json.dumps({**manifest, "weights_sha256": sha256}, indent=1)
        (staging / "manifest.json").write_text(note + "\n", encoding="utf-8")
        (staging / "LICENSE.txt").write_text(licence.rstrip() + "\n", encoding="utf-8")
        staging.chmod(0o755)
        os.rename(staging, folder)
    except OSError:  # full or read-only disk, or another process was first: its copy is as good
        pass
    finally:
        shutil.rmtree(staging, ignore_errors=True)
