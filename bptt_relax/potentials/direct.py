"""Potentials whose forces come out of a model directly and are the gradient of nothing.

They predict no energy and no stress, and say so by None: neither zero nor a guess can be mistaken for a prediction.
Whatever needs an energy, a stress, a symmetric Jacobian or a cheaper backward pass has to ask, and refuse.
"""

from typing import Protocol

import jax.numpy as jnp

from bptt_relax._precision import full_matmul
from bptt_relax._types import Forces, Params, Positions
from bptt_relax.neighbors import NO_GRAPH, Graph, GraphSpec
from bptt_relax.potentials._contract import InitFn, Potential, Prediction
from bptt_relax.systems import System


class ForcesFn(Protocol):
    """Forces of a structure."""

    def __call__(self, params: Params, positions: Positions, system: System, graph: Graph) -> Forces:
        """Forces on all atoms.

        Args:
            params: parameters of the potential.
            positions: (N, 3) angstrom.
            system: species, cell and masks.
            graph: edges, bonds and angles; none where the potential asks for none.

        Returns:
            (N, 3) eV/angstrom. What padded atoms get is ignored; they must change nothing for the others.
        """
        ...


def direct(
    forces: ForcesFn,
    init: InitFn,
    graph: GraphSpec = NO_GRAPH,
    *,
    elements: tuple[int, ...] = (),
    name: str = "potential",
) -> Potential:
    """Build a potential from a function that predicts forces.

    Args:
        forces: forces from positions.
        init: key -> params.
        graph: cutoffs of the graph the forces read; by default none.
        elements: atomic numbers it covers; empty for any.
        name: for messages and results.
    """

    @full_matmul
    def apply(params: Params, positions: Positions, system: System, graph: Graph) -> Prediction:
        predicted = forces(params, positions, system, graph)
        return Prediction(None, jnp.where(system.mask[:, None], predicted, 0.0), None)

    return Potential(init, apply, graph, False, elements, name, predicts=("forces",))
