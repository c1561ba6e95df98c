"""Descent that mixes in the previous displacement: heavy ball, or the convex mix of the paper's relaxer."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from bptt_relax._types import Array, Displacement
from bptt_relax.relax import hyper as transforms
from bptt_relax.relax._contract import UpdateRule


class MomentumState(NamedTuple):
    """Memory of `momentum`.

    Attributes:
        previous: (N, 3) displacement of the last step, angstrom.
        scale: () product of the annealing factors so far.
    """

    previous: Displacement
    scale: Array


def momentum(
    step_size: float,
    decay: float,
    *,
    annealing: float = 1.0,
    mix: Literal["heavy_ball", "convex"] = "heavy_ball",
) -> UpdateRule:
    """displacement_t = w * step_size * annealing^t * forces + decay * displacement_{t-1}.

    w is 1 for the heavy ball (Polyak, doi:10.1016/0041-5553(64)90137-5) and 1 - decay for the convex mix of
    arXiv:2512.01067.

    Args:
        step_size: angstrom^2/eV; the heavy ball is stable while step_size * L < 2 * (1 + decay).
        decay: weight of the previous displacement, strictly between 0 and 1.
        annealing: factor on the step size per step, learnable, 1 for none.
        mix: which w.

    Raises:
        ValueError: an argument is out of range. For decay = 0 use `descent`.
    """
    if mix not in ("heavy_ball", "convex"):
        raise ValueError(f"mix must be 'heavy_ball' or 'convex', got {mix!r}")
    hyper = {
        "log_step_size": transforms.from_positive(step_size, "step_size"),
        "logit_decay": transforms.from_fraction(decay, "decay"),
        "log_annealing": transforms.from_positive(annealing, "annealing"),
    }

    def init(hyper, system) -> MomentumState:
        del hyper
        dtype = system.masses.dtype
        return MomentumState(jnp.zeros(system.free.shape, dtype), jnp.ones((), dtype))

    def update(hyper, forces, rule_state, system):
        del system
        remembered = transforms.to_fraction(hyper["logit_decay"])
        weight = 1.0 - remembered if mix == "convex" else 1.0
        step = weight * transforms.to_positive(hyper["log_step_size"]) * rule_state.scale
        displacement = step * forces + remembered * rule_state.previous
        annealed = rule_state.scale * transforms.to_positive(hyper["log_annealing"])
        return displacement, MomentumState(displacement, annealed)

    return UpdateRule(hyper, init, update)
