"""What may be wrong with a relaxation before anything is computed with it.

Every check returns all it finds; nothing raises. A fatal problem keeps the relaxation out, a note doesn't.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bptt_relax.io import geometry, labels
from bptt_relax.io.problems import Problem
from bptt_relax.io.relaxations import Relaxation, largest_forces
from bptt_relax.systems import Structure


class Limits(NamedTuple):
    """What counts as wrong.

    Attributes:
        fmax: largest force on a free atom that a target may have, eV/angstrom.
        allow_unconverged: accept targets that are not converged.
        max_displacement: further than this from its start an atom is suspicious, angstrom.
        relax_cell: whether the cell may change along a relaxation; None: either.
    """

    fmax: float = 0.05
    allow_unconverged: bool = False
    max_displacement: float = 3.0
    relax_cell: bool | None = None


DEFAULT_LIMITS = Limits()

HARSH = 8.0
"""eV/angstrom; a start above it says more about a cap on displacements than about a potential."""

CELL_TOLERANCE = 1e-3
"""Relative change of a cell below which it is the same cell."""


def check(
    relaxation: Relaxation, limits: Limits = DEFAULT_LIMITS, *, finished: bool | None = None
) -> list[Problem]:
    """Everything that is wrong with a relaxation, or worth knowing.

    Args:
        relaxation: index-matched, positions without jumps.
        limits: what counts as wrong.
        finished: whether the output it was read from has its regular end; None where that can't be told.
    """
    say = _Teller(relaxation)
    fatal = list(_not_finite(relaxation, say)) or list(_cells(relaxation, say))
    if fatal and any(p.fatal for p in fatal):
        return fatal  # distances mean nothing in such a structure
    problems = [*fatal, *_single_point(relaxation, say)]
    if any(p.fatal for p in problems):
        return problems
    for one in (_convergence, _cell_change, _motion):
        problems += one(relaxation, say, limits, finished)
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
    for frame in (r.frames[0], r.relaxed):
        if not geometry.measurable(frame):
            text = f"cell has no volume although pbc is {_flags(frame)}"
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
                "write pbc into the file, or read with pbc=True",
            )
        else:
            yield say(
                "pbc is FFF, so the cell that is given is not used",
                "read with pbc=True if wrong",
                fatal=False,
            )


def _single_point(r: Relaxation, say: _Teller) -> Iterator[Problem]:
    if len(r.frames) - r.start < 2:
        yield say(
            "has no relaxed partner: a single structure, and a relaxation needs a start and an end",
            "give the whole trajectory, or mark the frames of one relaxation by an info key `job`",
        )


def _convergence(r: Relaxation, say: _Teller, limits: Limits, finished: bool | None) -> Iterator[Problem]:
    strict = not limits.allow_unconverged
    way_out = "relax further, or allow unconverged targets (--allow-unconverged)"
    if finished is False:
        yield say(
            "relaxation did not finish: the output ends before the program's end", way_out, fatal=strict
        )
    fmax = r.fmax
    if np.isnan(fmax):
        if r.converged is not True:
            yield say("no forces at the last step: cannot tell whether the target is converged", fatal=False)
    elif fmax > limits.fmax:
        yield say(
            f"not converged: final fmax {fmax:.2g} > {limits.fmax:g} eV/angstrom", way_out, fatal=strict
        )
    elif r.converged is False:
        yield say(
            f"the program did not call it converged, but final fmax is {fmax:.2g} eV/angstrom", fatal=False
        )


def _harsh_start(r: Relaxation, say: _Teller) -> Iterator[Problem]:
    if r.forces is None or not np.isfinite(r.forces[r.start]).all():
        return
    largest = float(largest_forces(r)[r.start])
    if largest > HARSH:
        yield say(
            f"starts at {largest:.0f} eV/angstrom, far up a repulsive wall: hardly a fair start",
            f"start at the first gentler step: start_below={HARSH:g}",
            fatal=False,
        )


def _cell_change(r: Relaxation, say: _Teller, limits: Limits, finished: bool | None) -> Iterator[Problem]:
    del finished
    strain, rotation = cell_change(r.initial, r.relaxed)
    if rotation > 0.02 and rotation > 3 * strain:
        yield say(
            f"cell of the relaxed structure is rotated by {np.degrees(rotation):.1f} degrees against the initial one",
            "write both structures in the same setting",
        )
    elif strain > CELL_TOLERANCE and limits.relax_cell is False:
        yield say(
            f"cell changes by {100 * strain:.1f}% along the relaxation, but relax_cell is false",
            "set relax_cell, or leave out calculations with a free cell (ISIF 3, vc-relax)",
        )


def _motion(r: Relaxation, say: _Teller, limits: Limits, finished: bool | None) -> Iterator[Problem]:
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
    far = np.flatnonzero(distance > limits.max_displacement)
    if len(far):
        yield say(
            f"{len(far)} atoms end further than {limits.max_displacement:g} angstrom from their start (atom "
            f"{distance.argmax()}: {distance.max():.2f}): wrong pair, wrong order, or another structure",
            "check the pair, or raise max_displacement",
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
