"""Load the bundled data, checked against the manifest."""

import hashlib
import json
import lzma
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bptt_relax.datasets import _extxyz, _records, acceptance
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError

HERE = Path(__file__).parent
MANIFEST = "manifest.json"
FILES = {"silicon-defects": "silicon_defects.extxyz.xz", "crystals": "crystals.extxyz.xz"}
NAMES = tuple(FILES)


class Rejected(NamedTuple):
    """A stored relaxation that may not be learned from.

    Attributes:
        name: of the relaxation.
        reasons: why, one sentence each.
        relaxation: as stored, to inspect.
    """

    name: str
    reasons: tuple[str, ...]
    relaxation: Relaxation


class Dataset(NamedTuple):
    """Relaxations of the reference method.

    Attributes:
        name: of the data set.
        sha256: of the file they were read from.
        relaxations: accepted, sorted by name, each with its fair start (`acceptance`).
        rejected: stored but not accepted.
    """

    name: str
    sha256: str
    relaxations: tuple[Relaxation, ...]
    rejected: tuple[Rejected, ...] = ()

    def select(self, names: Iterable[str]) -> list[Relaxation]:
        """The named relaxations, in the order of the names.

        Args:
            names: e.g. one part of a split.

        Raises:
            InputError: a name isn't among the accepted ones.
        """
        known = {r.name: r for r in self.relaxations}
        names = list(names)
        missing = [name for name in names if name not in known]
        if missing:
            why = {r.name: "; ".join(r.reasons) for r in self.rejected}
            listed = ", ".join(f"{name} ({why.get(name, 'unknown')})" for name in missing[:5])
            raise InputError(f"data set {self.name} has no accepted relaxation {listed}")
        return [known[name] for name in names]


def load(name: str, *, folder: Path | str | None = None) -> Dataset:
    """Load a bundled data set.

    Args:
        name: "silicon-defects" or "crystals".
        folder: where the files and the manifest are; the package's own when not given.

    Raises:
        InputError: the name is unknown, or a file is missing or differs from what the manifest says.
    """
    if name not in FILES:
        raise InputError(f"no data set {name!r}; there are {', '.join(NAMES)}")
    folder = HERE if folder is None else Path(folder)
    text, digest = read_text(name, folder)
    accepted, rejected = [], []
    for job, steps in sorted(_records.by_job(_extxyz.parse(text, FILES[name]), FILES[name]).items()):
        relaxation, reasons = acceptance.judge(_records.to_relaxation(job, steps, FILES[name]))
        if reasons:
            rejected.append(Rejected(job, reasons, relaxation))
        else:
            accepted.append(relaxation)
    return Dataset(name, digest, tuple(accepted), tuple(rejected))


def read_manifest(folder: Path) -> dict:
    """The manifest of a folder of data.

    Raises:
        InputError: it is missing or unreadable.
    """
    try:
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {folder / MANIFEST} ({error}); {_RESTORE}") from None


def read_text(name: str, folder: Path) -> tuple[str, str]:
    """The stored text of a data set and the sha256 of its file, checked.

    Raises:
        InputError: the file is missing or differs from what the manifest says.
    """
    path = folder / FILES[name]
    expected = read_manifest(folder)["datasets"][name]["sha256"]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error}); {_RESTORE}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise InputError(
            f"{path} is damaged or was changed: its sha256 is {digest[:16]}..., the manifest says {expected[:16]}...; "
            f"{_RESTORE}"
        )
    return lzma.decompress(content).decode(), digest


_RESTORE = (
    "restore it with `git checkout -- bptt_relax/datasets`, or reinstall bptt-relax; "
    "data of your own goes in through `python -m bptt_relax.datasets.merge`"
)
