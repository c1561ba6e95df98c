"""Relaxations from files and folders: found, read, checked, and everything wrong with them said at once."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bptt_relax.io import assembly, calculation, checks, records, restarts, sources
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.copies import are_copies, first_copies
from bptt_relax.io.options import DEFAULT_OPTIONS, ReadOptions, in_python, spell, use
from bptt_relax.io.problems import Problem, describe, refuse_existing, safe_name, write_rejected
from bptt_relax.io.relaxations import Relaxation, at_relaxed_cell
from bptt_relax.io.relaxations import start_below as begin_below
from bptt_relax.io.restarts import Part
from bptt_relax.io.sources import Source
from bptt_relax.outcomes import InputError
from bptt_relax.systems import Structure

_log = logging.getLogger(__name__)


class Inspection(NamedTuple):
    """What a path holds.

    Attributes:
        relaxations: fit for use, sorted by name.
        rejected: why others are not.
        notes: worth knowing about those that are.
    """

    relaxations: list[Relaxation]
    rejected: list[Problem]
    notes: list[Problem]


def read_relaxations(
    path: Path | str,
    options: ReadOptions = DEFAULT_OPTIONS,
    *,
    rejected_to: Path | str | None = None,
    **changes,
) -> list[Relaxation]:
    """Read and check all relaxations under a path.

    Args:
        path: a file, or a folder that is searched recursively. Accepted: VASP folders, Quantum ESPRESSO outputs,
            extended XYZ, ASE trajectories and databases, pairs POSCAR/CONTCAR or initial.*/relaxed.*.
        options: what is accepted, and where labels stand.
        rejected_to: with ``skip_bad``, a file to write the reasons to (comma-separated); never written over.
        **changes: single options in place of those: ``read_relaxations(path, fmax=0.02, skip_bad=True)``.

    Returns:
        The relaxations, sorted by name. Notes about them go to the log.

    Raises:
        InputError: nothing is there, or something is wrong and ``skip_bad`` is not set; lists all problems.
        pydantic.ValidationError: an option that doesn't exist, or an impossible value.
    """
    options = options.changed(**changes)
    if rejected_to is not None:
        refuse_existing(rejected_to)
    found = inspect(path, options)
    if found.rejected and not options.skip_bad:
        way_out = spell(f"leave them out with {use('skip_bad')}", in_python)
        raise InputError(f"{describe(found.rejected, f'cannot use {path}')}\n{way_out}")
    if rejected_to is not None:
        write_rejected(rejected_to, found.rejected)
    if not found.relaxations:
        raise InputError(describe(found.rejected, f"no usable relaxation in {path}"))
    for problem in (*found.rejected, *found.notes):
        _log.warning("%s%s", "left out: " if problem.fatal else "", problem)
    return found.relaxations


def inspect(
    path: Path | str,
    options: ReadOptions = DEFAULT_OPTIONS,
    *,
    progress: Callable[[int, int], None] | None = None,
    **changes,
) -> Inspection:
    """Read and check all relaxations under a path without raising for what is wrong with them.

    Args:
        path: as `read_relaxations`.
        options: likewise; ``skip_bad`` changes nothing here.
        progress: called with the number of sources read and their total.
        **changes: single options in place of those.
    """
    options = options.changed(**changes)
    found, problems = sources.find_sources(Path(path))
    parts: list[Part] = []
    for k, source in enumerate(found):
        read, told = _read_one(source, options)
        parts += read
        problems += told
        if progress is not None:
            progress(k + 1, len(found))
    relaxations = []
    for part in restarts.join(parts):
        relaxation, told = _judge(part, options)
        problems += told
        if relaxation is not None:
            relaxations.append(relaxation)
    relaxations, told = _distinguish(relaxations)
    problems += told
    relaxations, told = _group_by_ends(relaxations)
    problems += told
    problems += _differences(str(path), relaxations, options)
    if options.in_relaxed_cell:
        relaxations = [at_relaxed_cell(r) if changes_cell(r) else r for r in relaxations]
    relaxations.sort(key=lambda r: r.name)
    return Inspection(relaxations, [p for p in problems if p.fatal], [p for p in problems if not p.fatal])


def read_pair(
    initial: Path | str,
    relaxed: Path | str,
    options: ReadOptions = DEFAULT_OPTIONS,
    *,
    name: str | None = None,
    **changes,
) -> Relaxation:
    """A relaxation from two files: where it starts and where it ends.

    Args:
        initial: any structure file that ASE reads.
        relaxed: likewise.
        options: as `read_relaxations`.
        name: of the relaxation; from the first file when not given.
        **changes: single options in place of those.

    Raises:
        InputError: lists everything that is wrong.
    """
    options = options.changed(**changes)
    source = Source(name or sources.bare(Path(initial)).stem, (Path(initial), Path(relaxed)), "pair")
    missing = [path for path in source.paths if not path.is_file()]
    if missing:
        raise InputError(f"no such file: {', '.join(map(str, missing))}")
    parts, problems = _read_one(source, options)
    relaxation = None
    if parts:
        relaxation, told = _judge(parts[0], options)
        problems += told
    fatal = [p for p in problems if p.fatal]
    if relaxation is None or fatal:
        raise InputError(describe(fatal, f"cannot use {initial} with {relaxed}"))
    return relaxation


def _read_one(source: Source, options: ReadOptions) -> tuple[list[Part], list[Problem]]:
    """What a source holds, before it is judged; and what keeps it from being read."""
    try:
        found = records.read_source(source)
    except InputError as error:
        return [], [Problem(str(source.paths[0]), safe_name(source.name), str(error))]
    parts, problems = [], []
    for record in found:
        relaxation, told = assembly.assemble(record, options)
        if relaxation is None:
            problems += told
        else:
            parts.append(Part(relaxation, told, record.course.finished, record.tag))
    return parts, problems


def _judge(part: Part, options: ReadOptions) -> tuple[Relaxation | None, list[Problem]]:
    """The relaxation if it is fit for use, and everything that was found about it."""
    relaxation, problems = part.relaxation, list(part.problems)
    if any(p.fatal for p in problems):
        return None, problems
    if options.start_below is not None and relaxation.forces is not None:
        started, told = _start(relaxation, options.start_below)
        problems += told
        if started is None:
            return None, problems
        relaxation = started
    problems += checks.check(relaxation, options, finished=part.finished)
    return (None if any(p.fatal for p in problems) else relaxation), problems


def _start(r: Relaxation, limit: float) -> tuple[Relaxation | None, list[Problem]]:
    """Start at the first gentle step."""
    source = str(r.info["source"])
    if len(r.frames) < 2 or not np.isfinite(r.forces[:-1] if r.forces is not None else np.nan).any():
        return r, []
    moved = begin_below(r, limit)
    if moved is None:
        text = f"no step before the last has all forces below {limit:g} eV/angstrom"
        return None, [Problem(source, r.name, text, f"raise {use('start_below')}, or leave it out")]
    text = f"starts at step {moved.start}: before it a force exceeds {limit:g} eV/angstrom"
    return moved, [Problem(source, r.name, text, fatal=False)] if moved.start else []


def _differences(path: str, relaxations: Sequence[Relaxation], options: ReadOptions) -> list[Problem]:
    """What is not the same throughout the data set."""
    made = [(r.name, r.calculation) for r in relaxations]
    told = [
        Problem(
            path,
            "",
            text,
            "one method to a data set: energies and minima of others are elsewhere",
            fatal=False,
        )
        for text in calculation.differences(made)
    ]
    without = [r.name for r in relaxations if r.forces is None]
    if without and len(without) < len(relaxations) and not options.in_relaxed_cell:
        listed = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
        text = (
            f"{len(without)} of {len(relaxations)} relaxations have no forces ({listed}): BPTT learns from where they "
            "end, force matching learns nothing from them"
        )
        told.append(Problem(path, "", text, fatal=False))
    return told


def _distinguish(relaxations: list[Relaxation]) -> tuple[list[Relaxation], list[Problem]]:
    """Different names for different relaxations; a copy of one that is there already is left out."""
    known: dict[str, Relaxation] = {}
    problems = []
    for r in relaxations:
        name, number = r.name, 1
        while name in known and not _same(known[name], r):
            number += 1
            name = f"{r.name}-{number}"
        if name in known:
            text = f"a copy of {name} ({known[name].info['source']}): left out"
            problems.append(Problem(str(r.info["source"]), r.name, text, fatal=False))
            continue
        # Parts of one relaxation in several files (a frame-wise split) have its name in common: one group.
        group = known[r.name].group if name != r.name and r.group == r.name else r.group
        if name != r.name:
            text = f"another relaxation has this name, too: called {name} and put into group {group}"
            problems.append(Problem(str(r.info["source"]), r.name, text, fatal=False))
        known[name] = r._replace(
            name=name, group=group, frames=tuple(f._replace(name=name) for f in r.frames)
        )
    return list(known.values()), problems


def _group_by_ends(relaxations: list[Relaxation]) -> tuple[list[Relaxation], list[Problem]]:
    """One group for relaxations of which one starts or ends where another does, or a split would leak."""
    problems = []
    group = {r.name: r.group for r in relaxations}
    alike: dict[bytes, list[tuple[Relaxation, str, Structure]]] = {}
    for r in relaxations:
        ends = [("initial", r.initial), ("relaxed", r.relaxed)]
        if r.start:
            ends.insert(0, ("first", r.frames[0]))
        alike.setdefault(r.initial.species.tobytes(), []).extend((r, end, at) for end, at in ends)
    for members in alike.values():
        for k, first in enumerate(first_copies([structure for _, _, structure in members])):
            (r, end, _), (earlier, its_end, _) = members[k], members[first]
            if group[r.name] == group[earlier.name]:
                continue
            old, new = group[r.name], group[earlier.name]
            group = {name: new if g == old else g for name, g in group.items()}
            same = (
                f"same {end} structure as"
                if end == its_end
                else f"its {end} structure is the {its_end} one of"
            )
            text = f"{same} {earlier.name}: put into group {new}"
            problems.append(Problem(str(r.info["source"]), r.name, text, fatal=False))
    return [r._replace(group=group[r.name]) for r in relaxations], problems


def _same(a: Relaxation, b: Relaxation) -> bool:
    """Whether one is a copy of the other."""
    return (
        len(a.frames) == len(b.frames)
        and are_copies(a.initial, b.initial)
        and are_copies(a.relaxed, b.relaxed)
    )
