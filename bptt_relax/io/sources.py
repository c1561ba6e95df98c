"""Which files of a folder hold relaxations."""

import bz2
import gzip
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bptt_relax.io.problems import Problem

OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
"""How to open compressed files, by suffix."""
UNPACKING_ERRORS = (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error)
"""What the modules above raise where a file is damaged."""
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
        tag: of files of one run among several in a folder, such as relax1 of OUTCAR.relax1.gz.
    """

    name: str
    paths: tuple[Path, ...]
    format: str | None
    tag: str = ""


class VaspName(NamedTuple):
    """What the name of a file of VASP says.

    Attributes:
        role: POSCAR, CONTCAR, OUTCAR or vasprun.xml.
        tag: what the name has besides.
    """

    role: str
    tag: str


_VASP_NAME = re.compile(
    r"(?:(?P<before>.+)[._-])?(?P<role>POSCAR|CONTCAR|OUTCAR|vasprun)(?P<xml>\.xml)?"
    r"(?:[._-]?(?P<after>[^._-].*?))??(?P<end>\.xml)?"
)


def vasp_name(path: Path) -> VaspName | None:
    """Role and tag of a file of VASP, compressed or not, from its name; None for other files.

    Args:
        path: such as vasprun.xml, OUTCAR.relax2.gz, vasprun_run1.xml, POSCAR.orig.
    """
    name = bare(path).name
    found = _VASP_NAME.fullmatch(name)
    is_vasprun = found is not None and found["role"] == "vasprun"
    if found is None or is_vasprun != bool(found["xml"] or found["end"]):
        return None
    if Path(name).suffix.lower() in _ABOUT:
        return None
    tag = ".".join(part for part in (found["before"], found["after"]) if part)
    return VaspName("vasprun.xml" if is_vasprun else found["role"], tag)


_ABOUT = {
    ".md5",
    ".sha1",
    ".sha256",
    ".json",
    ".yaml",
    ".yml",
    ".png",
    ".pdf",
    ".csv",
    ".tar",
    ".zip",
    ".py",
    ".sh",
}
"""Files about files."""


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
    except UNPACKING_ERRORS:
        return b""


def is_damaged(path: Path) -> bool:
    """Whether not even the beginning of a compressed file can be unpacked."""
    return path.suffix.lower() in OPENERS and path.stat().st_size > 0 and not beginning(path, 16)


def find_sources(path: Path) -> tuple[list[Source], list[Problem]]:
    """Everything under a path that may hold relaxations, in a fixed order.

    Args:
        path: a file or a folder; folders are searched recursively, hidden ones are not.

    Returns:
        The sources; a problem when there is none, and notes about files that are passed over.
    """
    if not path.exists():
        return [], [Problem(str(path), "", "no such file or folder", "check the path")]
    if path.is_file():
        vasp = vasp_name(path)
        name = path.resolve().parent.name if vasp and not vasp.tag else bare(path).stem
        return [Source(name, (path,), format_of(path), vasp.tag if vasp else "")], []
    sources: list[Source] = []
    notes: list[Problem] = []
    for here, files in folders(path):
        relative = here.relative_to(path).as_posix()
        name = path.resolve().name if relative == "." else relative
        found, passed_over = _in_folder(here, files, name, relative)
        sources += found
        notes += passed_over
    if sources:
        return sources, notes
    return [], [Problem(str(path), "", "no relaxations found", f"formats accepted: {ACCEPTED}"), *notes]


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


def _in_folder(
    folder: Path, files: list[str], name: str, relative: str
) -> tuple[list[Source], list[Problem]]:
    others = [f for f in files if vasp_name(Path(f)) is None]
    found = _of_vasp(folder, files, name)
    if found:
        readable = [f for f in others if format_of(Path(f)) in ("extxyz", "traj", "db")]
        if not readable:
            return found, []
        text = (
            f"not read, because {found[0].paths[0].name} beside {'it' if len(readable) == 1 else 'them'} is"
        )
        fix = "move to a folder of its own if it is another relaxation"
        return found, [Problem(str(folder / f), "", text, fix, fatal=False) for f in readable]
    by_bare = {bare(Path(f)).name: folder / f for f in others}
    initial = sorted(f for f in by_bare if Path(f).stem == "initial")
    relaxed = sorted(f for f in by_bare if Path(f).stem == "relaxed")
    if initial and relaxed:
        return [Source(name, (by_bare[initial[0]], by_bare[relaxed[0]]), "pair")], []
    for f, path in sorted(by_bare.items()):
        kind = format_of(path)
        # Schedulers write .out files, too; nobody means those. What can't be unpacked is said to be damaged.
        if kind == "espresso-out" and not (is_damaged(path) or b"Program PWSCF" in beginning(path)):
            continue
        if kind is not None:
            found.append(
                Source(Path(f).stem if relative == "." else f"{relative}/{Path(f).stem}", (path,), kind)
            )
    return found, []


def _of_vasp(folder: Path, files: list[str], name: str) -> list[Source]:
    """Runs of VASP in one folder, told apart by the tags of their files; the run without a tag is the last."""
    runs: dict[str, dict[str, Path]] = {}
    for f in files:
        vasp = vasp_name(Path(f))
        if vasp is not None:
            runs.setdefault(vasp.tag, {})[vasp.role] = folder / f
    found = []
    for tag in sorted(runs, key=in_order):
        here = runs[tag]
        called = f"{name}-{tag}" if tag else name
        # vasprun.xml has full precision; the OUTCAR beside it is still asked whether the run ended well.
        for role, kind in (("vasprun.xml", "vasp-xml"), ("OUTCAR", "vasp-out")):
            if role in here:
                found.append(Source(called, (here[role],), kind, tag))
                break
    if found:
        return found
    return [
        Source(f"{name}-{tag}" if tag else name, (here["POSCAR"], here["CONTCAR"]), "pair", tag)
        for tag, here in sorted(runs.items(), key=lambda item: in_order(item[0]))
        if {"POSCAR", "CONTCAR"} <= set(here)
    ]


def in_order(tag: str) -> tuple:
    """Key that sorts relax2 before relax10, and no tag behind all tags."""
    return (not tag, [int(part) if part.isdigit() else part for part in re.split(r"(\d{1,9})", tag)])


def beside(path: Path, role: str) -> Path | None:
    """The file of the same run of VASP with another role, in the same folder; None where there is none.

    Args:
        path: of one file of the run.
        role: of the other.
    """
    vasp = vasp_name(path)
    for other in sorted(path.parent.iterdir()):
        if vasp_name(other) == VaspName(role, vasp.tag if vasp else ""):
            return other
    return None


def format_of(path: Path) -> str | None:
    """ASE's name of the format that a file name tells, or None where it tells nothing."""
    vasp = vasp_name(path)
    if vasp is not None:
        return {"OUTCAR": "vasp-out", "vasprun.xml": "vasp-xml"}.get(vasp.role)
    suffix = bare(path).suffix.lower()
    if suffix in _QE:
        return "espresso-out"
    return _TRAJECTORIES.get(suffix)
