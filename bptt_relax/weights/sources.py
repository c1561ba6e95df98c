"""Find the published file of a model: given by the user, in this or another package, or fetched."""

from pathlib import Path

from bptt_relax.outcomes import InputError
from bptt_relax.weights import downloads, wheels
from bptt_relax.weights.published import Published, read_bytes, verify
from bptt_relax.weights.registry import Bundled, Model, WheelMember

BUNDLED = Path(__file__).parent / "bundled"
"""Folder of the weights that come with this package."""


def find(model: Model, source: str | Path | None = None) -> Published:
    """The published file of a model, verified.

    Args:
        model: registry entry.
        source: on this machine: the weights, a wheel that holds them, or a folder with either. An installed
            package and the network when not given.

    Raises:
        InputError: ``source`` does not exist or is not the published file.
        ModelError: it can't be fetched.
    """
    if source is not None:
        return from_path(model, Path(source))
    if model.source is None:
        raise ValueError(f"{model.name} has no weights to fetch")
    if isinstance(model.source, Bundled):
        return _bundled(model, model.source)
    if isinstance(model.source, WheelMember):
        return wheels.installed(model, model.source) or wheels.fetch(model, model.source)
    return downloads.fetch(model, model.source)


def from_path(model: Model, path: Path) -> Published:
    """The published file from a wheel, a file of weights or a folder on this machine.

    Raises:
        InputError: no such file, or not the published one.
    """
    if path.is_dir():
        path = _in_folder(model, path)
    data = read_bytes(path)
    if path.suffix == ".whl" and isinstance(model.source, WheelMember):
        return wheels.unpack(model, model.source, data, path.name)
    verify(model, data, str(path))
    return Published(data, str(path), model.notice)


def _bundled(model: Model, source: Bundled) -> Published:
    path = BUNDLED / source.file_name
    try:
        return from_path(model, path)
    except InputError as error:
        raise InputError(
            f"{error}. The weights of {model.name} come with this package: install it again"
        ) from error


def _in_folder(model: Model, folder: Path) -> Path:
    if model.source is None:
        raise ValueError(f"{model.name} has no weights to find")
    patterns = [model.source.file_name]
    if isinstance(model.source, WheelMember):
        patterns.append(model.source.requirement.replace("==", "-") + "-*.whl")
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise InputError(f"no {' and no '.join(patterns)} in {folder}: check the folder")
