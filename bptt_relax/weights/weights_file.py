"""Weights on disk: safetensors files that say which model they belong to."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as deserialize
from safetensors.numpy import save as serialize

from bptt_relax.outcomes import InputError
from bptt_relax.weights.published import read_bytes, refuse_disguised

FORMAT = "bptt_relax weights 1"
PARAMETERS_FORMAT = "bptt_relax parameters 1"
"""Of a potential that the registry does not know, see `params_file`."""


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

    Raises:
        InputError: a value isn't finite: nothing is written.
    """
    require_finite(weights.arrays, path)
    metadata = {"format": FORMAT, "model": weights.model, "arguments": json.dumps(weights.arguments)}
    arrays = {k: np.asarray(v, np.float32, order="C") for k, v in weights.arrays.items()}
    write_whole(Path(path), serialize(arrays, metadata))


def require_finite(arrays: dict[str, np.ndarray], path: str | Path) -> None:
    """Refuse to save what could not be loaded again.

    Raises:
        InputError: an array holds NaN or infinite values.
    """
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            raise InputError(f"{name} holds NaN or infinite values: {path} is not written")


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
    return decode(read_bytes(Path(path)), str(path))


def decode(data: bytes, origin: str) -> Weights:
    """Weights from the bytes of such a file.

    Args:
        data: the whole file.
        origin: what messages call it.

    Raises:
        InputError: as `read`.
    """
    arrays, metadata = parse(data, origin)
    if metadata.get("format") == PARAMETERS_FORMAT:
        raise InputError(
            f"{origin} holds parameters of {metadata.get('potential')!r}, a potential that was given from Python: "
            "read them there, with models.load_params(path, like=params)"
        )
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{origin} was not written by this package (format {metadata.get('format')!r}, needed {FORMAT!r}): "
            "save weights with models.save"
        )
    try:
        return Weights(metadata["model"], json.loads(metadata["arguments"]), arrays)
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(
            f"{origin} does not say which model it belongs to ({error}): save it again"
        ) from error


def parse(data: bytes, origin: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file.

    Args:
        data: the whole file.
        origin: what messages call it.

    Raises:
        InputError: not such a file, or cut off.
    """
    refuse_disguised(data, origin)
    try:
        arrays = deserialize(data)
        # The library gives metadata of files only. It has just checked this header: a length, then JSON.
        length = int.from_bytes(data[:8], "little")
        return arrays, json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{origin} is not a whole safetensors file ({error}): copy or fetch it again"
        ) from error
