"""Where the relaxation of one structure ended, on the host."""

from typing import NamedTuple

import numpy as np

from bptt_relax.outcomes import Outcome
from bptt_relax.systems import Structure


class Path(NamedTuple):
    """Every configuration of a relaxation, the start and the end included.

    Attributes:
        positions: (T, n, 3) angstrom.
        cells: (T, 3, 3) angstrom.
        energies: (T,) eV.
        max_forces: (T,) eV/angstrom.
    """

    positions: np.ndarray
    cells: np.ndarray
    energies: np.ndarray
    max_forces: np.ndarray


class Final(NamedTuple):
    """Where the relaxation of one structure ended, and what the potential says there.

    Attributes:
        index: of the structure among those given.
        structure: as given, with the positions (and the cell) of the end. What may not move is exactly where it was.
        energy: eV, at the end; NaN where that could not be evaluated, or the potential has none.
        max_force: eV/angstrom, likewise, over free components.
        max_stress: eV/angstrom^3, likewise; None where the cell was fixed.
        steps: displacements made.
        outcome: CONVERGED, RUNNING (steps ran out), NOT_FINITE, or STALE_NEIGHBORS (rebuilding did not help).
        rebuilds: how many times the neighbors were built again.
        path: how it got there, where asked for.
    """

    index: int
    structure: Structure
    energy: float
    max_force: float
    max_stress: float | None
    steps: int
    outcome: Outcome
    rebuilds: int
    path: Path | None = None

    @property
    def converged(self) -> bool:
        """The forces (and the stress) are below their tolerances."""
        return self.outcome == Outcome.CONVERGED
