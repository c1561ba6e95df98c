"""Relaxations from files and folders: found, read, checked, and everything wrong with them said at once."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bptt_relax.io import assembly, checks, records, sources
from bptt_relax.io.atoms import DEFAULT_KEYS, LabelKeys
from bptt_relax.io.checks import DEFAULT_LIMITS, Limits
from bptt_relax.io.problems import Problem, describe, safe_name, write_rejected
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.io.relaxations import start_below as begin_below
from bptt_relax.io.sources import Source
from bptt_relax.outcomes import InputError
from bptt_relax.systems import Structure

_log = logging.getLogger(__name__)

SAME = 0.02
"""angstrom; structures that differ by less, index by index and up to a rigid shift, are copies."""


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
    *,
    allow_unconverged: bool = False,
    fmax: float = 0.05,
    max_displacement: float = 3.0,
    relax_cell: bool | None = None,
    reorder: bool = False,
    skip_bad: bool = False,
    rejected_to: Path | str | None = None,
    pbc: bool | None = None,
    start_below: float | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
) -> list[Relaxation]:
    """Read and check all relaxations under a path.

    Args:
        path: a file, or a folder that is searched recursively. Accepted: VASP folders, Quantum ESPRESSO outputs,
            extended XYZ, ASE trajectories and databases, pairs POSCAR/CONTCAR or initial.*/relaxed.*.
        allow_unconverged: accept targets that are not converged.
        fmax: largest force that a target may have, eV/angstrom.
        max_displacement: further than this from its start an atom is suspicious, angstrom.
        relax_cell: whether the cell may change along a relaxation; None: either.
        reorder: reorder atoms where start and end are written in different orders.
        skip_bad: leave bad relaxations out instead of refusing all.
        rejected_to: with ``skip_bad``, a file to write the reasons to (comma-separated).
        pbc: overrides the files' periodic boundary conditions.
        start_below: start at the first step whose largest force is below this, eV/angstrom; None: at the first.
        energy_key: info key of the energies, where not the usual.
        forces_key: array key of the forces, where not the usual.
        stress_key: info key of the stresses, where not the usual.

    Returns:
        The relaxations, sorted by name. Notes about them go to the log.

    Raises:
        InputError: nothing is there, or something is wrong and ``skip_bad`` is not set; lists all problems.
    """
    found = inspect(
        path,
        limits=Limits(fmax, allow_unconverged, max_displacement, relax_cell),
        keys=LabelKeys(energy_key, forces_key, stress_key),
        reorder=reorder,
        pbc=pbc,
        start_below=start_below,
    )
    if found.rejected and not skip_bad:
        raise InputError(
            describe(found.rejected, f"cannot use {path}") + "\nleave them out with skip_bad (--skip-bad)"
        )
    if rejected_to is not None:
        write_rejected(rejected_to, found.rejected)
    if not found.relaxations:
        raise InputError(describe(found.rejected, f"no usable relaxation in {path}"))
    for problem in (*found.rejected, *found.notes):
        _log.warning("%s%s", "left out: " if problem.fatal else "", problem)
    return found.relaxations


def inspect(
    path: Path | str,
    *,
    limits: Limits = DEFAULT_LIMITS,
    keys: LabelKeys = DEFAULT_KEYS,
    reorder: bool = False,
    pbc: bool | None = None,
    start_below: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Read and check all relaxations under a path without raising for what is wrong with them.

    Args:
        path: as `read_relaxations`.
        limits: what counts as wrong.
        keys: where labels stand.
        reorder: as `read_relaxations`.
        pbc: as `read_relaxations`.
        start_below: as `read_relaxations`.
        progress: called with the number of sources read and their total.
    """
    found, problems = sources.find_sources(Path(path))
    relaxations: list[Relaxation] = []
    for count, source in enumerate(found, start=1):
        for relaxation, told in _read_one(source, limits, keys, reorder, pbc, start_below):
            problems += told
            if relaxation is not None:
                relaxations.append(relaxation)
        if progress is not None:
            progress(count, len(found))
    relaxations, told = _distinguish(relaxations)
    problems += told
    relaxations, told = _group_duplicates(relaxations)
    problems += told
    relaxations.sort(key=lambda r: r.name)
    return Inspection(relaxations, [p for p in problems if p.fatal], [p for p in problems if not p.fatal])


def read_pair(
    initial: Path | str, relaxed: Path | str, *, name: str | None = None, reorder: bool = False
) -> Relaxation:
    """A relaxation from two files: where it starts and where it ends.

    Args:
        initial: any structure file that ASE reads.
        relaxed: likewise.
        name: of the relaxation; from the first file when not given.
        reorder: as `read_relaxations`.

    Raises:
        InputError: lists everything that is wrong.
    """
    source = Source(name or sources.bare(Path(initial)).stem, (Path(initial), Path(relaxed)), "pair")
    missing = [path for path in source.paths if not path.is_file()]
    if missing:
        raise InputError(f"no such file: {', '.join(map(str, missing))}")
    ((relaxation, problems),) = _read_one(source, DEFAULT_LIMITS, DEFAULT_KEYS, reorder, None, None)
    fatal = [p for p in problems if p.fatal]
    if relaxation is None or fatal:
        raise InputError(describe(fatal, f"cannot use {initial} with {relaxed}"))
    return relaxation


def _read_one(
    source: Source,
    limits: Limits,
    keys: LabelKeys,
    reorder: bool,
    pbc: bool | None,
    start_below: float | None,
) -> list[tuple[Relaxation | None, list[Problem]]]:
    try:
        found = records.read_source(source)
    except InputError as error:
        return [(None, [Problem(str(source.paths[0]), safe_name(source.name), str(error))])]
    results = []
    for record in found:
        relaxation, problems = assembly.assemble(record, keys=keys, reorder=reorder, pbc=pbc)
        if relaxation is not None and start_below is not None:
            relaxation, told = _start(relaxation, start_below)
            problems += told
        if relaxation is not None:
            problems += checks.check(relaxation, limits, finished=record.course.finished)
        usable = relaxation is not None and not any(p.fatal for p in problems)
        results.append((relaxation if usable else None, problems))
    return results


def _start(r: Relaxation, limit: float) -> tuple[Relaxation | None, list[Problem]]:
    """Start at the first gentle step."""
    source = str(r.info["source"])
    if r.forces is None:
        return r, [Problem(source, r.name, "no forces: start_below has no effect", fatal=False)]
    moved = begin_below(r, limit)
    if moved is None:
        text = f"no step before the last has all forces below {limit:g} eV/angstrom"
        return None, [Problem(source, r.name, text, "raise start_below, or leave it out")]
    notes = [Problem(source, r.name, f"starts at step {moved.start}", fatal=False)] if moved.start else []
    return moved, notes


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


def _group_duplicates(relaxations: list[Relaxation]) -> tuple[list[Relaxation], list[Problem]]:
    """One group for relaxations that start or end at the same structure, or a split would leak."""
    problems = []
    group = {r.name: r.group for r in relaxations}
    alike: dict[bytes, list[Relaxation]] = {}
    for r in relaxations:
        alike.setdefault(r.initial.species.tobytes(), []).append(r)
    for members in alike.values():
        same = {end: _copies([getattr(r, end) for r in members]) for end in ("initial", "relaxed")}
        for k, r in enumerate(members):
            found = {end: members[same[end][k]] for end in same if same[end][k] != k}
            for end, earlier in found.items():
                if group[r.name] == group[earlier.name]:
                    continue
                old, new = group[r.name], group[earlier.name]
                group = {name: new if g == old else g for name, g in group.items()}
                text = f"same {end} structure as {earlier.name}: put into group {new}"
                problems.append(Problem(str(r.info["source"]), r.name, text, fatal=False))
    return [r._replace(group=group[r.name]) for r in relaxations], problems


def _copies(structures: list[Structure]) -> list[int]:
    """For every structure the index of the first that it is a copy of: itself, if of none."""
    cells = np.stack([s.cell for s in structures])
    fractional = np.stack([s.positions @ np.linalg.inv(s.cell) for s in structures])
    first = list(range(len(structures)))
    for k, structure in enumerate(structures):
        near = np.flatnonzero(np.all(np.abs(cells[:k] - cells[k]) < SAME, axis=(1, 2)))
        if len(near):
            d = fractional[near] - fractional[k]
            d = (d - np.where(structure.pbc, np.round(d), 0.0)) @ structure.cell
            d -= np.median(d, axis=1, keepdims=True)
            copies = near[np.linalg.norm(d, axis=2).max(axis=1) < SAME]
            first[k] = first[copies[0]] if len(copies) else k
    return first


def _same(a: Relaxation, b: Relaxation) -> bool:
    """Whether one is a copy of the other."""
    return (
        len(a.frames) == len(b.frames)
        and np.array_equal(a.initial.species, b.initial.species)
        and _copies([a.initial, b.initial]) == _copies([a.relaxed, b.relaxed]) == [0, 0]
    )
