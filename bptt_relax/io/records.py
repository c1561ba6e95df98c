"""One relaxation as a file gives it, before it is known whether its steps fit together."""

import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import ParseError

from ase import Atoms
from ase.io import read
from ase.io.formats import UnknownFileTypeError, filetype

from bptt_relax.io import espresso, sizes, vasp
from bptt_relax.io.atoms import CALCULATION_PREFIX
from bptt_relax.io.calculation import WRITTEN, Calculation
from bptt_relax.io.course import Course
from bptt_relax.io.sources import ACCEPTED, OPENERS, UNPACKING_ERRORS, Source, bare, beside, vasp_name
from bptt_relax.outcomes import InputError

RELAXATION_KEYS = ("job", "relaxation", "traj", "trajectory", "group")
"""Info keys that say to which relaxation a frame belongs; the first one that a file has is used."""

MAX_BYTES = 8 * 2**30
"""A compressed file that unpacks to more is refused."""

# These reach beyond the file that is given: other folders, servers.
_REFUSED = {"bundletrajectory", "mysql", "postgresql"}

_TEXTS = ("espresso-out", "vasp-out", "vasp-xml", "vasp", "extxyz", "xyz")
"""Formats whose contents are looked at before they are read."""

_CALLED = {
    "vasp-out": "an OUTCAR of VASP",
    "vasp-xml": "a vasprun.xml of VASP",
    "vasp": "a POSCAR of VASP",
    "espresso-out": "an output of pw.x",
    "extxyz": "extended XYZ",
    "traj": "an ASE trajectory",
    "db": "an ASE database",
}


class Record(NamedTuple):
    """The steps of one relaxation, as read.

    Attributes:
        name: as the file or folder calls it.
        source: the file, for messages.
        steps: in their order.
        course: how the calculation went.
        notes: what the reader had to say.
        calculation: what it was.
        tag: of a run among several in a folder.
        by_key: the file says which of its frames belong together.
        is_pair: the source is a folder with start and end.
    """

    name: str
    source: str
    steps: list[Atoms]
    course: Course
    notes: tuple[str, ...] = ()
    calculation: Calculation = Calculation()
    tag: str = ""
    by_key: bool = False
    is_pair: bool = False


def read_source(source: Source) -> list[Record]:
    """Read every relaxation of a source.

    Args:
        source: from `sources.find_sources`.

    Raises:
        InputError: a file is empty, cut off, of an unknown format, or not what its name says.
    """
    if source.format == "pair":
        ends = [read_file(path, None)[0][-1] for path in source.paths]
        return [
            Record(source.name, str(source.paths[0].parent), ends, Course(), tag=source.tag, is_pair=True)
        ]
    path = source.paths[0]
    steps, text, notes, kind = read_file(path, source.format)
    if kind == "espresso-out":
        course, calculation = espresso.course_of_pw(text), espresso.calculation_of_pw(text)
    elif kind == "vasp-out":
        course, calculation = vasp.course_of_outcar(text), vasp.calculation_of_outcar(text)
        for step in steps:
            # ASE takes those of any POSCAR or CONTCAR that lies beside it, whatever its atoms.
            step.set_constraint()
    elif kind == "vasp-xml":
        course, calculation = _with_outcar(
            vasp.course_of_vasprun(text), vasp.calculation_of_vasprun(text), path
        )
    else:
        return _by_key(source.name, path, steps, notes)
    if kind != "espresso-out":
        notes += _hold(steps, path)
    return [Record(source.name, str(path), steps, course, notes, calculation, source.tag)]


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary copy of what a compressed file contains.

    Args:
        path: of the file.

    Raises:
        InputError: the archive is damaged, cut off or too large.
    """
    if path.suffix.lower() not in OPENERS:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / bare(path).name
        try:
            with OPENERS[path.suffix.lower()](path) as packed, plain.open("wb") as out:
                shutil.copyfileobj(_Capped(packed, path), out, 2**20)
        except InputError:
            raise
        except UNPACKING_ERRORS as error:
            raise InputError(
                f"cannot unpack {path}: it is damaged or cut off; was it copied completely?"
            ) from error
        yield plain


class _Capped:
    def __init__(self, file, path: Path):
        self._file, self._path, self._left = file, path, MAX_BYTES

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._left -= len(block)
        if self._left < 0:
            raise InputError(f"{self._path} unpacks to more than {MAX_BYTES // 2**30} GiB; refused")
        return block


def read_file(path: Path, kind: str | None) -> tuple[list[Atoms], str, tuple[str, ...], str]:
    """Read all frames of a file.

    Args:
        path: of the file, which may be compressed.
        kind: ASE's name of the format; found out when not given.

    Returns:
        The frames, the file's text where a program wrote it, ASE's warnings, and the format.

    Raises:
        InputError: the file is empty, damaged, cut off, or of a format that ASE does not know.
    """
    with unpacked(path) as plain:
        if plain.stat().st_size == 0:
            raise InputError(f"{path} is empty; was its writing cut off?")
        kind = kind or _guess(plain, path)
        if kind in _REFUSED:
            raise InputError(f"{path}: format {kind} is not accepted; formats accepted: {ACCEPTED}")
        text = plain.read_text(errors="replace") if kind in _TEXTS else ""
        if kind == "espresso-out" and "Program PWSCF" not in text:
            raise InputError(f"{path} is not an output of pw.x; formats accepted: {ACCEPTED}")
        sizes.check(path, kind, text, plain)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                if kind == "espresso-out":
                    frames = _read_pw(text)
                else:
                    frames = _as_atoms(read(plain, ":", format=kind, do_not_split_by_at_sign=True))
            except UnknownFileTypeError:
                raise InputError(
                    f"cannot read {path}: format {kind} is unknown; formats accepted: {ACCEPTED}"
                ) from None
            except Exception as error:  # ASE's readers raise whatever their parsers stumble over
                raise InputError(_why_not(path, kind, text, error)) from error
    if not frames:
        raise InputError(f"{path}, read as {kind}, holds no complete structure; was the run killed early?")
    return frames, text, tuple(dict.fromkeys(str(w.message) for w in caught)), kind


def _read_pw(text: str) -> list[Atoms]:
    """The complete ionic steps of an output of pw.x; ASE's reader fails on one that was killed within a step."""
    announced = [match.start() for match in re.finditer(r"^ATOMIC_POSITIONS", text, re.MULTILINE)]
    *first, last = (len(text), *announced[:-3:-1])
    for end in first:
        with suppress(Exception):
            return _as_atoms(read(StringIO(text[:end]), ":", format="espresso-out"))
    return _as_atoms(read(StringIO(text[:last]), ":", format="espresso-out"))


def _as_atoms(frames) -> list[Atoms]:
    return [frame for frame in frames if isinstance(frame, Atoms)]


def _guess(plain: Path, path: Path) -> str:
    try:
        return filetype(str(plain))
    except (UnknownFileTypeError, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {path}: ASE does not know its format ({_brief(error)}); formats accepted: {ACCEPTED}"
        ) from None


def _why_not(path: Path, kind: str, text: str, error: Exception) -> str:
    """Why a file can't be read, in a sentence of its own: what a parser stumbled over says nothing to a user."""
    told = {"vasp-out": vasp.calculation_of_outcar, "vasp-xml": vasp.calculation_of_vasprun}
    if kind in told and told[kind](text).task == vasp.MACHINE_LEARNED:
        return f"{path} is no relaxation by DFT: it has {vasp.MACHINE_LEARNED}"
    called = _CALLED.get(kind, f"format {kind}")
    if isinstance(error, MemoryError):
        return f"cannot read {path} as {called}: it does not fit into memory"
    if isinstance(error, ParseError):  # of XML
        return f"cannot read {path} as {called}: it is damaged or cut off at line {error.position[0]}"
    # ASE's own errors are sentences.
    said = f" (ASE says: {_brief(error)})" if type(error).__module__.startswith("ase.") and str(error) else ""
    return f"cannot read {path} as {called}: it is damaged, cut off early, or another kind of file{said}"


def _hold(steps: list[Atoms], path: Path) -> tuple[str, ...]:
    """Hold what the POSCAR or CONTCAR of the same run holds, which outputs don't always repeat; says what it can't.

    Args:
        steps: to be held, in place, where the output itself holds nothing.
        path: of the output.
    """
    if any(step.constraints for step in steps):
        return ()
    vasp_file = vasp_name(path)
    plain = path.with_name("OUTCAR")
    of_this_run = [path] if vasp_file is None or not vasp_file.tag else [path, plain]
    notes = []
    for run in of_this_run:
        for role in ("POSCAR", "CONTCAR"):
            other = beside(run, role)
            if other is None:
                continue
            try:
                structure = read_file(other, "vasp")[0][-1]
            except InputError:  # an empty CONTCAR of a killed run is no reason to refuse its OUTCAR
                continue
            if structure.get_chemical_symbols() != steps[0].get_chemical_symbols():
                notes.append(f"{other.name} has other atoms: what it holds fixed is not used")
                continue
            for step in steps:
                step.set_constraint(structure.constraints)
            return tuple(notes)
    return tuple(notes)


def _with_outcar(course: Course, calculation: Calculation, vasprun: Path) -> tuple[Course, Calculation]:
    """Ask the OUTCAR beside a vasprun.xml, which doesn't say itself that the ions converged."""
    path = beside(vasprun, "OUTCAR")
    if path is None:
        return course, calculation
    try:
        with unpacked(path) as plain:
            text = plain.read_text(errors="replace")
    except InputError:
        return course, calculation
    said, told = vasp.course_of_outcar(text), vasp.calculation_of_outcar(text)
    missing = {key: value for key, value in told._asdict().items() if getattr(calculation, key) in (None, {})}
    if told.task == vasp.MACHINE_LEARNED:
        missing["task"] = told.task
    return course._replace(
        converged=said.converged if said.converged is not None else course.converged,
        unconverged_steps=course.unconverged_steps | said.unconverged_steps,
    ), calculation._replace(**missing)


def _by_key(name: str, path: Path, steps: list[Atoms], notes: tuple[str, ...]) -> list[Record]:
    """Tell apart the relaxations of a file by the first of `RELAXATION_KEYS` that its frames have."""
    key = next((k for k in RELAXATION_KEYS if any(k in atoms.info for atoms in steps)), None)
    if key is None:
        return [
            Record(name, str(path), steps, _course_of_info(steps), notes, _calculation_of_info(steps, path))
        ]
    without = [str(t) for t, atoms in enumerate(steps) if key not in atoms.info]
    if without:
        raise InputError(
            f"{path}: frames {', '.join(without[:5])} have no info key `{key}`, others have; add it"
        )
    jobs: dict[str, list[Atoms]] = {}
    for atoms in steps:
        jobs.setdefault(str(atoms.info[key]), []).append(atoms)
    return [
        Record(
            job,
            str(path),
            members,
            _course_of_info(members),
            notes,
            _calculation_of_info(members, path),
            by_key=True,
        )
        for job, members in jobs.items()
    ]


def _calculation_of_info(steps: list[Atoms], path: Path) -> Calculation:
    """What `writing.write_relaxations` wrote of it."""
    said = {key: steps[-1].info.get(CALCULATION_PREFIX + key) for key in WRITTEN}
    try:
        return Calculation(**{key: make(said[key]) for key, make in WRITTEN.items() if said[key] is not None})
    except (TypeError, ValueError):
        raise InputError(
            f"{path}: the info keys {CALCULATION_PREFIX}* of a last frame make no sense"
        ) from None


def _course_of_info(steps: list[Atoms]) -> Course:
    said = steps[-1].info.get("converged")
    return Course(converged=None if said is None else bool(said))


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
