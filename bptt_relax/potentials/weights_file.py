"""Weights on disk: safetensors files that say which model they belong to."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from bptt_relax.outcomes import InputError
from bptt_relax.potentials.published import refuse_disguised

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
    metadata = {"format": FORMAT, "model": weights.model, "arguments": json.dumps(weights.arguments)}
    arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in weights.arrays.items()}
    write_whole(Path(path), serialize(arrays, metadata))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; replaced if it exists."""
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
        InputError: no such file, not a safetensors file, cut off, or without this package's description.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights at {path}: check the path")
    with path.open("rb") as file:
        refuse_disguised(file.read(512), path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): copy or fetch it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} was not written by this package (format {metadata.get('format')!r}, needed {FORMAT!r}): "
            "save weights with potentials.save"
        )
    try:
        return Weights(metadata["model"], json.loads(metadata["arguments"]), arrays)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} does not say which model it belongs to ({error}): save it again") from error
