"""What may be wrong with a relaxation before anything is computed with it.

Every check returns all it finds; nothing raises. A fatal problem keeps the relaxation out, a note doesn't.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bptt_relax.io import continuity, geometry, labels
from bptt_relax.io.options import DEFAULT_OPTIONS, ReadOptions, use
from bptt_relax.io.problems import Problem
from bptt_relax.io.relaxations import Relaxation, largest_forces
from bptt_relax.systems import Structure
from bptt_relax.units import EV_PER_A3_IN_GPA

HARSH = 8.0
"""eV/angstrom; a start above it says more about a cap on displacements than about a potential."""

STILL = 1e-4
"""angstrom; an atom that never gets further from where it was didn't move."""

PRESSURE_TOLERANCE = 0.05
"""GPa; pressures that differ by less are the same."""

CELL_TOLERANCE = 1e-3
"""Relative change of a cell below which it is the same cell."""


def check(
    relaxation: Relaxation, options: ReadOptions = DEFAULT_OPTIONS, *, finished: bool | None = None
) -> list[Problem]:
    """Everything that is wrong with a relaxation, or worth knowing.

    Args:
        relaxation: index-matched, positions without jumps.
        options: what counts as wrong.
        finished: whether the output it was read from has its regular end; None where that can't be told.
    """
    say = _Teller(relaxation)
    fatal = list(_not_finite(relaxation, say)) or list(_cells(relaxation, say))
    if fatal and any(p.fatal for p in fatal):
        return fatal  # distances mean nothing in such a structure
    problems = [*fatal, *_single_point(relaxation, say)]
    if any(p.fatal for p in problems):
        return problems
    for one in (_pressure, _convergence, _cell_change, _motion):
        problems += one(relaxation, say, options, finished)
    problems += _continuity(relaxation, say)
    problems += _harsh_start(relaxation, say)
    problems += _contacts(relaxation, say)
    problems += _fixed(relaxation, say)
    return problems + labels.check(relaxation)


class _Teller(NamedTuple):
    relaxation: Relaxation

    def __call__(self, text: str, fix: str = "", *, fatal: bool = True) -> Problem:
        source = str(self.relaxation.info.get("source", self.relaxation.name))
        return Problem(source, self.relaxation.name, text, fix, fatal)


def _not_finite(r: Relaxation, say: _Teller) -> Iterator[Problem]:
    for step, frame in enumerate(r.frames):
        bad = np.flatnonzero(~np.isfinite(frame.positions).all(axis=1))
        if len(bad):
            yield say(
                f"position of atom {bad[0]} is NaN or infinite at step {step}", "repair or remove the step"
            )
            return
        if not np.isfinite(frame.cell).all():
            yield say(f"cell is NaN or infinite at step {step}", "repair or remove the step")
            return
    if r.forces is not None and not np.isfinite(r.forces[-1]).all() and not np.isnan(r.forces[-1]).all():
        atom = np.flatnonzero(~np.isfinite(r.forces[-1]).all(axis=1))[0]
        yield say(
            f"force on atom {atom} is NaN or infinite at the last step", "repair or remove the structure"
        )
    if r.energies is not None and np.isinf(r.energies).any():
        yield say(f"energy is infinite at step {np.flatnonzero(np.isinf(r.energies))[0]}", "repair the file")


def _cells(r: Relaxation, say: _Teller) -> Iterator[Problem]:
    for step, frame in enumerate(r.frames):
        if not geometry.measurable(frame):
            text = f"cell has no volume although pbc is {_flags(frame)}, or a number is absurd (step {step})"
            yield say(text, "give three independent lattice vectors")
            return
    if np.linalg.det(r.initial.cell) < 0:
        yield say("left-handed cell: used as it is", fatal=False)
    if not r.initial.pbc.any() and r.info.get("cell_given", False):
        crossing = geometry.bond_across(r.relaxed)
        if crossing is not None:
            yield say(
                f"pbc is FFF but a cell is given, and atoms {crossing[0]} and {crossing[1]} would be bonded across "
                "its boundary: is this a bulk?",
                f"write pbc into the file, or read with {use('pbc', True)}",
            )
        else:
            yield say(
                "pbc is FFF, so the cell that is given is not used",
                f"read with {use('pbc', True)} if wrong",
                fatal=False,
            )


def _single_point(r: Relaxation, say: _Teller) -> Iterator[Problem]:
    if len(r.frames) - r.start < 2:
        yield say(
            "has no relaxed partner: a single structure, and a relaxation needs a start and an end",
            "give the whole trajectory, or mark the frames of one relaxation by an info key `job`",
        )


def _pressure(r: Relaxation, say: _Teller, options: ReadOptions, finished: bool | None) -> Iterator[Problem]:
    """The cell that a pressure gives is no target of a relaxation at another."""
    del finished
    pressure = r.pressure * EV_PER_A3_IN_GPA
    if options.in_relaxed_cell or abs(pressure - options.pressure) < PRESSURE_TOLERANCE:
        return
    if r.calculation.free_cell:
        yield say(
            f"the cell was relaxed at a pressure of {pressure:g} GPa (PSTRESS, press), not at {options.pressure:g}",
            f"take the atoms alone in the final cell ({use('in_relaxed_cell')}), or only relaxations at one pressure "
            f"({use('pressure', f'{pressure:g}')})",
        )


def _convergence(
    r: Relaxation, say: _Teller, options: ReadOptions, finished: bool | None
) -> Iterator[Problem]:
    strict = not options.allow_unconverged
    way_out = f"relax further, or allow unconverged targets ({use('allow_unconverged')})"
    if finished is False:
        yield say(
            "relaxation did not finish: the output ends before the program's end", way_out, fatal=strict
        )
    fmax = r.fmax
    if np.isnan(fmax):
        if r.converged is not True:
            yield say("no forces at the last step: cannot tell whether the target is converged", fatal=False)
    elif fmax > options.fmax:
        yield say(
            f"not converged: final fmax {fmax:.2g} > {options.fmax:g} eV/angstrom{_perhaps_held(r, options)}",
            way_out,
            fatal=strict,
        )
    elif r.converged is False:
        yield say(
            f"the program did not call it converged, but final fmax is {fmax:.2g} eV/angstrom", fatal=False
        )
    yield from _cell_convergence(r, say, options, way_out)


def _perhaps_held(r: Relaxation, options: ReadOptions) -> str:
    """Whether a few atoms alone carry the forces that are too large: held, and nothing says so?"""
    assert r.forces is not None
    norms = np.linalg.norm(np.where(r.relaxed.free, r.forces[-1], 0.0), axis=1)
    above = np.flatnonzero(norms > options.fmax)
    if len(above) > max(1, len(norms) // 4):
        return ""
    moved = np.max([np.abs(f.positions - r.frames[0].positions).max(axis=1) for f in r.frames], axis=0)
    still = bool(np.all(moved[above] < STILL))
    listed = ", ".join(map(str, above[:5])) + (", ..." if len(above) > 5 else "")
    atoms = f"atom {listed} alone" if len(above) == 1 else f"atoms {listed} alone"
    if still:
        return (
            f", on {atoms}, which never moved{'' if len(above) == 1 else ' at all'}: perhaps held fixed, and the "
            "constraint is not in the file (POSCAR beside the OUTCAR, column move_mask of extended XYZ)"
        )
    return f", on {atoms}: perhaps held in part, and the constraint is not in the file"


def _cell_convergence(r: Relaxation, say: _Teller, options: ReadOptions, way_out: str) -> Iterator[Problem]:
    """Where the cell was relaxed, it too has to have come to rest, at its pressure."""
    free = r.calculation.free_cell if r.calculation.free_cell is not None else changes_cell(r)
    if not free or options.in_relaxed_cell or r.stresses is None or not np.isfinite(r.stresses[-1]).all():
        return
    # Where nothing says at which pressure, the one that was asked for.
    pressure = r.pressure if r.calculation.pressure is not None else options.pressure / EV_PER_A3_IN_GPA
    beyond = (r.stresses[-1] + pressure * np.eye(3)) * EV_PER_A3_IN_GPA
    periodic = np.outer(r.relaxed.pbc, r.relaxed.pbc)
    worst = float(np.abs(beyond[periodic]).max(initial=0.0))
    if worst > options.smax:
        # Of some relaxations of the cell only the volume or only the shape is free.
        yield say(
            f"the cell has not converged: final stress is {worst:.2g} GPa away from its pressure > {options.smax:g}",
            f"{way_out}; if only part of the cell was free, raise the limit ({use('smax', f'{np.ceil(worst):g}')}) or "
            f"take the atoms alone in the final cell ({use('in_relaxed_cell')})",
            fatal=not options.allow_unconverged,
        )


def _continuity(r: Relaxation, say: _Teller) -> Iterator[Problem]:
    """Several relaxations taken for one, or steps in another order than they were computed in."""
    # A program writes its steps in order, and the user who marked them knows which belong together.
    trusted = r.calculation.code is not None or bool(r.info.get("by_key"))
    found = continuity.breaks(r)
    if found:
        listed = ", ".join(
            f"step {b.step} (an atom jumps {b.jump:.2f} angstrom"
            + (
                ""
                if np.isnan(b.rise)
                else f", the energy {'rises' if b.rise > 0 else 'falls'} {abs(b.rise):.3g} eV"
            )
            + ")"
            for b in found[:5]
        )
        yield say(
            f"seems to be {len(found) + 1} relaxations one after the other; another begins at {listed}",
            "one relaxation to a file, or mark the frames of each by an info key `job`",
            fatal=not trusted,
        )
    elif continuity.are_mixed_up(r):
        rises = int(np.sum(np.diff(r.energies) > 0)) if r.energies is not None else 0
        yield say(
            f"the steps are not in the order in which they were computed: the energy rises {rises} times, and the "
            f"way through them is {continuity.detour(r):.1f} times as long as by falling energy",
            "write the steps in their order: the first has to be the start, the last the end",
            fatal=not trusted or r.calculation.code is None,
        )


def _harsh_start(r: Relaxation, say: _Teller) -> Iterator[Problem]:
    if r.forces is None or not np.isfinite(r.forces[r.start]).all():
        return
    largest = float(largest_forces(r)[r.start])
    if largest > HARSH:
        yield say(
            f"starts at {largest:.0f} eV/angstrom, far up a repulsive wall: hardly a fair start",
            f"start at the first gentler step: {use('start_below', f'{HARSH:g}')}",
            fatal=False,
        )


def _cell_change(
    r: Relaxation, say: _Teller, options: ReadOptions, finished: bool | None
) -> Iterator[Problem]:
    del finished
    strain, rotation = cell_change(r.initial, r.relaxed)
    if rotation > 0.02 and rotation > 3 * strain:
        yield say(
            f"cell of the relaxed structure is rotated by {np.degrees(rotation):.1f} degrees against the initial one",
            "write both structures in the same setting",
        )
    elif strain > CELL_TOLERANCE and options.relax_cell is False:
        yield say(
            f"cell changes by {100 * strain:.1f}% along the relaxation, but relax_cell is false",
            f"set relax_cell, or take the atoms alone in the final cell ({use('in_relaxed_cell')})",
        )


def _motion(r: Relaxation, say: _Teller, options: ReadOptions, finished: bool | None) -> Iterator[Problem]:
    del finished
    moved = geometry.displacement(r.initial, r.relaxed, minimum_image=False)
    # Where something is held the frame is given: nothing drifts, and losses remove nothing.
    drift = moved.mean(axis=0) if r.initial.free.all() else np.zeros(3)
    if np.linalg.norm(drift) > 0.05:
        yield say(f"rigid drift of {np.linalg.norm(drift):.2f} angstrom: losses remove it", fatal=False)
    if r.info.get("crossings"):
        yield say(
            f"{r.info['crossings']} atoms crossed a periodic boundary: nearest images taken", fatal=False
        )
    distance = np.linalg.norm(moved - drift, axis=1)
    far = np.flatnonzero(distance > options.max_displacement)
    if len(far):
        yield say(
            f"{len(far)} atoms end further than {options.max_displacement:g} angstrom from their start (atom "
            f"{distance.argmax()}: {distance.max():.2f}): wrong pair, wrong order, or another structure",
            f"check the pair, or raise {use('max_displacement', int(np.ceil(distance.max())))}",
        )
    periodic = geometry.heights(r.relaxed.cell)[r.initial.pbc]
    # Steps of a trajectory follow each other closely; with only two frames the image is a guess.
    jump = largest_jump(r)
    if len(periodic) and jump > periodic.min() / 2:
        yield say(
            f"an atom moves {jump:.2f} angstrom from one frame to the next, more than half the shortest cell height "
            f"({periodic.min():.2f}): its periodic image is ambiguous",
            "give the ionic steps in between, or exclude it",
        )


def _contacts(r: Relaxation, say: _Teller) -> Iterator[Problem]:
    for name, frame in (("initial", r.initial), ("relaxed", r.relaxed)):
        i, j, ratio = geometry.pairs_within(frame, 0.7)
        for k in np.argsort(ratio)[:1]:
            text = (
                f"atoms {i[k]} and {j[k]} of the {name} structure overlap "
                f"({ratio[k]:.2f} of the sum of their covalent radii)"
            )
            yield say(text, "repair or exclude the structure", fatal=bool(ratio[k] < 0.6))
        lonely = [p[0] for p in geometry.fragments(frame, 1.6) if len(p) == 1 and len(frame.species) > 1]
        if lonely and name == "relaxed":
            yield say(f"atom {lonely[0]} of the relaxed structure has no neighbors", "check it", fatal=False)


def _fixed(r: Relaxation, say: _Teller) -> Iterator[Problem]:
    free = r.initial.free
    if not free.any():
        yield say("all atoms are fixed: nothing relaxes", "remove the constraints")
    elif not free.all():
        count = int((~free).any(axis=1).sum())
        yield say(f"{count} atoms are fixed wholly or in part: left out of losses", fatal=False)


def cell_change(initial: Structure, relaxed: Structure) -> tuple[float, float]:
    """How far a cell was strained and rotated.

    Args:
        initial: the start.
        relaxed: the end.

    Returns:
        Largest principal strain (relative) and angle of rotation (radians).
    """
    F = np.linalg.inv(initial.cell) @ relaxed.cell
    U, stretches, V = np.linalg.svd(F)
    R = U @ V
    if np.linalg.det(R) < 0:  # a mirrored setting is as good as a rotated one: not comparable
        return float(np.abs(stretches - 1).max()), np.pi
    angle = float(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1)))
    return float(np.abs(stretches - 1).max()), angle


def changes_cell(relaxation: Relaxation) -> bool:
    """Whether the reference relaxed the cell, too."""
    return cell_change(relaxation.initial, relaxation.relaxed)[0] > CELL_TOLERANCE


def largest_jump(r: Relaxation) -> float:
    """Largest displacement of an atom between consecutive frames, angstrom.

    With the drift: images are chosen for the atoms as they stand in the file.
    """
    jumps = [0.0]
    for before, after in zip(r.frames[r.start :], r.frames[r.start + 1 :], strict=False):
        d = geometry.displacement(before, after, minimum_image=False)
        jumps.append(float(np.linalg.norm(d, axis=1).max()))
    return max(jumps)


def _flags(structure: Structure) -> str:
    return "".join("FT"[int(flag)] for flag in structure.pbc)
