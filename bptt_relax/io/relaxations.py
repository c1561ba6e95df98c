"""A relaxation of the reference method: every ionic step from its start to its minimum."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from bptt_relax import units
from bptt_relax.io.calculation import Calculation
from bptt_relax.systems import Structure


class Relaxation(NamedTuple):
    """What the reference method did to one structure, on the host.

    Attributes:
        name: unique within a data set; messages, splits and results use it.
        group: what a split must not tear apart. Relaxations that share a start or a parent share a group.
        kind: what a split is stratified by, e.g. the kind of defect; the formula where nothing is known.
        frames: the ionic steps, index-matched, positions continuous across periodic boundaries.
        energies: (T,) eV, NaN where a step has none; None where no step has one.
        forces: (T, n, 3) eV/angstrom, raw (constraints not applied), NaN where a step has none; or None.
        stresses: (T, 3, 3) eV/angstrom^3 with ASE's sign, NaN where a step has none; or None.
        converged: what the reference code said of itself; None where it says nothing.
        info: where it comes from and how it was made: ``source`` and whatever the file carries.
        start: index of the frame taken as the initial structure.
        calculation: what the output says of how it was made.
    """

    name: str
    group: str
    kind: str
    frames: tuple[Structure, ...]
    energies: np.ndarray | None = None
    forces: np.ndarray | None = None
    stresses: np.ndarray | None = None
    converged: bool | None = None
    info: Mapping[str, Any] = MappingProxyType({})
    start: int = 0
    calculation: Calculation = Calculation()

    @property
    def pressure(self) -> float:
        """At which the cell was relaxed, eV/angstrom^3; 0 where nothing is said, or the cell is given."""
        known = self.calculation.pressure if self.calculation.free_cell else None
        return (known or 0.0) / units.EV_PER_A3_IN_GPA

    @property
    def initial(self) -> Structure:
        """The structure a relaxation starts from."""
        return self.frames[self.start]

    @property
    def relaxed(self) -> Structure:
        """The structure the reference method ends at: the target."""
        return self.frames[-1]

    @property
    def fmax(self) -> float:
        """Largest force on a free atom at the last step, eV/angstrom; NaN without forces."""
        return float("nan") if self.forces is None else float(largest_forces(self)[-1])


def largest_forces(relaxation: Relaxation) -> np.ndarray:
    """Largest norm of the force on an atom at every step, fixed components left out.

    Args:
        relaxation: with forces.

    Returns:
        (T,) eV/angstrom, NaN where a step has no forces.

    Raises:
        ValueError: the relaxation has no forces.
    """
    if relaxation.forces is None:
        raise ValueError(f"relaxation {relaxation.name} has no forces")
    free = np.stack([frame.free for frame in relaxation.frames])
    return np.linalg.norm(np.where(free, relaxation.forces, 0.0), axis=-1).max(axis=-1)


def start_below(relaxation: Relaxation, limit: float) -> Relaxation | None:
    """Start at the first frame whose largest force is below ``limit``.

    A start far up a repulsive wall says more about the cap on the displacements than about the potential.

    Args:
        relaxation: with forces.
        limit: eV/angstrom.

    Returns:
        The relaxation with ``start`` moved, or None when no frame before the last is that gentle.
    """
    gentle = np.flatnonzero(largest_forces(relaxation)[:-1] < limit)
    return relaxation._replace(start=int(gentle[0])) if len(gentle) else None


def at_relaxed_cell(relaxation: Relaxation) -> Relaxation:
    """The relaxation of the atoms alone, in the cell that a relaxation with a free cell ended in.

    The start keeps its fractional coordinates. Steps in between are dropped: their labels belong to other cells.

    Args:
        relaxation: with any cell.
    """
    r = relaxation
    start = r.initial._replace(
        positions=r.initial.positions @ np.linalg.inv(r.initial.cell) @ r.relaxed.cell, cell=r.relaxed.cell
    )
    return r._replace(
        frames=(start, r.relaxed),
        energies=None,
        forces=None,
        stresses=None,
        start=0,
        calculation=r.calculation._replace(free_cell=False),
    )
