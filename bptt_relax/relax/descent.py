"""Plain descent along the forces with an annealed step size."""

from typing import NamedTuple

import jax.numpy as jnp

from bptt_relax._types import Array
from bptt_relax.relax import hyper as transforms
from bptt_relax.relax._contract import UpdateRule


class DescentState(NamedTuple):
    """Memory of `descent`.

    Attributes:
        scale: () product of the annealing factors so far.
    """

    scale: Array


def descent(step_size: float, *, annealing: float = 1.0) -> UpdateRule:
    """displacement_t = step_size * annealing^t * forces.

    Args:
        step_size: angstrom^2/eV; stable while step_size * L < 2, with L the largest eigenvalue of the Hessian.
        annealing: factor on the step size per step, learnable, 1 for none.

    Raises:
        ValueError: an argument is not positive.
    """
    hyper = {
        "log_step_size": transforms.from_positive(step_size, "step_size"),
        "log_annealing": transforms.from_positive(annealing, "annealing"),
    }

    def init(hyper, system) -> DescentState:
        del hyper
        return DescentState(jnp.ones((), system.masses.dtype))

    def update(hyper, forces, rule_state, system):
        del system
        step = transforms.to_positive(hyper["log_step_size"]) * rule_state.scale
        annealed = rule_state.scale * transforms.to_positive(hyper["log_annealing"])
        return step * forces, DescentState(annealed)

    return UpdateRule(hyper, init, update)
