"""Which files of a folder hold relaxations."""

import bz2
import gzip
import lzma
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bptt_relax.io.problems import Problem

OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
"""How to open compressed files, by suffix."""
ACCEPTED = (
    "VASP folders (vasprun.xml or OUTCAR, or POSCAR with CONTCAR), Quantum ESPRESSO outputs (.pwo, .out), "
    "extended XYZ (.extxyz, .xyz), ASE (.traj, .db), pairs initial.* with relaxed.*; "
    "text files also compressed (.gz, .xz, .bz2)"
)

_TRAJECTORIES = {".extxyz": "extxyz", ".xyz": "extxyz", ".traj": "traj", ".db": "db"}
_QE = {".pwo", ".out"}


class Source(NamedTuple):
    """Where one or more relaxations are.

    Attributes:
        name: proposed for what is in it.
        paths: the file; or the initial and the relaxed structure.
        format: ASE's name of the format, or "pair", or None to ask ASE.
    """

    name: str
    paths: tuple[Path, ...]
    format: str | None


def bare(path: Path) -> Path:
    """The path without a suffix that says it is compressed."""
    return path.with_suffix("") if path.suffix.lower() in OPENERS else path


def beginning(path: Path, size: int = 2**18) -> bytes:
    """The first bytes of a file, unpacked; nothing where it can't be unpacked.

    Args:
        path: of the file.
        size: bytes.
    """
    try:
        with OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
            return file.read(size)
    except (EOFError, OSError, lzma.LZMAError):
        return b""


def find_sources(path: Path) -> tuple[list[Source], list[Problem]]:
    """Everything under a path that may hold relaxations, in a fixed order.

    Args:
        path: a file or a folder; folders are searched recursively, hidden ones are not.

    Returns:
        The sources, and one problem when there is none.
    """
    if not path.exists():
        return [], [Problem(str(path), "", "no such file or folder", "check the path")]
    if path.is_file():
        usual = bare(path).name in ("OUTCAR", "vasprun.xml")
        return [
            Source(path.resolve().parent.name if usual else bare(path).stem, (path,), format_of(path))
        ], []
    sources: list[Source] = []
    for here, files in folders(path):
        relative = here.relative_to(path).as_posix()
        name = path.resolve().name if relative == "." else relative
        sources += _in_folder(here, files, name, relative)
    if sources:
        return sources, []
    return [], [Problem(str(path), "", "no relaxations found", f"formats accepted: {ACCEPTED}")]


def folders(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and all below it, in a fixed order, with the names of their files; hidden ones are left out.

    Args:
        path: of the folder.
    """
    visited: set[Path] = set()
    # Runs are often linked together from elsewhere; a link in a circle is walked once.
    for folder, subfolders, files in os.walk(path, followlinks=True):
        here = Path(folder)
        if here.resolve() in visited:
            subfolders.clear()
            continue
        visited.add(here.resolve())
        subfolders[:] = sorted(d for d in subfolders if not d.startswith("."))
        yield here, sorted(f for f in files if not f.startswith("."))


def _in_folder(folder: Path, files: list[str], name: str, relative: str) -> list[Source]:
    by_bare = {bare(Path(f)).name: folder / f for f in files}
    # vasprun.xml has full precision; the OUTCAR beside it is still asked whether the run ended well.
    for vasp, kind in (("vasprun.xml", "vasp-xml"), ("OUTCAR", "vasp-out")):
        if vasp in by_bare:
            return [Source(name, (by_bare[vasp],), kind)]
    if "POSCAR" in by_bare and "CONTCAR" in by_bare:
        return [Source(name, (by_bare["POSCAR"], by_bare["CONTCAR"]), "pair")]
    initial = sorted(f for f in by_bare if Path(f).stem == "initial")
    relaxed = sorted(f for f in by_bare if Path(f).stem == "relaxed")
    if initial and relaxed:
        return [Source(name, (by_bare[initial[0]], by_bare[relaxed[0]]), "pair")]
    found = []
    for f, path in sorted(by_bare.items()):
        kind = format_of(path)
        # Schedulers write .out files, too; nobody means those.
        if kind == "espresso-out" and b"Program PWSCF" not in beginning(path):
            continue
        if kind is not None:
            found.append(
                Source(Path(f).stem if relative == "." else f"{relative}/{Path(f).stem}", (path,), kind)
            )
    return found


def format_of(path: Path) -> str | None:
    """ASE's name of the format that a file name tells, or None where it tells nothing."""
    name = bare(path).name
    if re.search(r"OUTCAR", name):
        return "vasp-out"
    if re.search(r"vasprun.*\.xml$", name):
        return "vasp-xml"
    suffix = bare(path).suffix.lower()
    if suffix in _QE:
        return "espresso-out"
    return _TRAJECTORIES.get(suffix)
