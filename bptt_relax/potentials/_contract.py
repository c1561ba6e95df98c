"""The contract of a potential, documented once."""

import math
from typing import NamedTuple, Protocol

from bptt_relax._types import Energy, Forces, Params, Positions, Stress
from bptt_relax.neighbors import Graph, GraphSpec
from bptt_relax.systems import System


class Prediction(NamedTuple):
    """What a potential says about one structure.

    Attributes:
        energy: () eV, or None where the potential has none, as with direct forces.
        forces: (N, 3) eV/angstrom, zero for padded atoms.
        stress: (3, 3) eV/angstrom^3 with ASE's sign, or None where the potential has none.
    """

    energy: Energy | None
    forces: Forces
    stress: Stress | None


class InitFn(Protocol):
    """Draw or load the parameters."""

    def __call__(self, key) -> Params:
        """Parameters of the potential.

        Args:
            key: a JAX random key; ignored by potentials with fixed starting values.
        """
        ...


class ApplyFn(Protocol):
    """Predict energy, forces and stress: a pure function."""

    def __call__(self, params: Params, positions: Positions, system: System, graph: Graph) -> Prediction:
        """Prediction for one structure.

        Args:
            params: from `InitFn` or a checkpoint.
            positions: (N, 3) angstrom.
            system: the structure (its ``candidates`` are not read).
            graph: the neighbors at these positions (`neighbors.refresh`).
        """
        ...


class Potential(NamedTuple):
    """A potential is two pure functions and what they need.

    Attributes:
        init: key -> params.
        apply: (params, positions, system, graph) -> Prediction.
        graph: cutoffs of the graph that ``apply`` reads.
        conservative: whether forces are exactly minus the gradient of the energy. Implicit differentiation
            needs to know; nothing else may ask.
        elements: atomic numbers it covers; empty for any.
        name: for messages and results.
        apply_lean: the same function as ``apply`` for reverse mode only: it stores nothing but its inputs, and
            its backward pass is cheaper than that of ``apply``. None where there is none, as for direct forces.
            Whoever wraps ``apply`` wraps this too, or sets it to None.
        predicts: which fields of a `Prediction` it fills; the others are None.
    """

    init: InitFn
    apply: ApplyFn
    graph: GraphSpec
    conservative: bool = True
    elements: tuple[int, ...] = ()
    name: str = "potential"
    apply_lean: ApplyFn | None = None
    predicts: tuple[str, ...] = ("energy", "forces", "stress")

    @property
    def cutoff(self) -> float:
        """Largest distance at which two atoms interact directly, angstrom; infinite for one that reads no graph."""
        return self.graph.cutoff or math.inf
