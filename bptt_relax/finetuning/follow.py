"""One relaxation followed step by step."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from bptt_relax import losses
from bptt_relax._types import Cell, Positions, Scalar
from bptt_relax.outcomes import Outcome
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import Pair
from bptt_relax.unrolling import path, rebuild, unroll


def path_recorder(relaxation: Relaxation, num_steps: int) -> Callable[[Theta, Pair], dict[str, list[float]]]:
    """Build a host function that follows one relaxation: Delta Q and largest force at every step.

    Args:
        relaxation: the relaxation.
        num_steps: largest number of steps.

    Returns:
        (theta, pair) -> {"delta_q": [...] sqrt(u)*angstrom, "max_force": [...] eV/angstrom}, one value per step made.
    """
    run = jax.jit(
        unroll(relaxation, num_steps, record=lambda state, info: path(state, info) | {"cell": state.cell})
    )

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def distances(positions: Positions, cell: Cell, pair: Pair) -> Scalar:
        if pair.relaxed_cell is None:
            return losses.delta_q(positions, pair.relaxed, pair.system)
        return losses.delta_q_in_cell(positions, cell, pair.relaxed, pair.relaxed_cell, pair.system)

    def follow(theta: Theta, pair: Pair) -> dict[str, list[float]]:
        state, system = relaxation.init(theta, pair.initial, pair.system), pair.system
        followed: dict[str, list[float]] = {"delta_q": [], "max_force": []}
        for _ in range(num_steps):
            result = run(theta, state, system)
            made = int(result.state.steps - state.steps)
            followed["delta_q"] += np.asarray(
                distances(result.trace["positions"], result.trace["cell"], pair)
            )[:made].tolist()
            followed["max_force"] += np.asarray(result.trace["max_force"])[:made].tolist()
            if int(result.outcome) != Outcome.STALE_NEIGHBORS:
                break
            state, system = rebuild(result.state, system)
        return followed

    return follow
