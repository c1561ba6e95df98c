"""Learnable factors on forces: what a relaxation could learn if the potential stayed as it is."""

from typing import NamedTuple

import jax.numpy as jnp

from bptt_relax._types import Array
from bptt_relax.relax import hyper as transforms
from bptt_relax.relax._contract import UpdateRule

LAST_ELEMENT = 118


def scale_by_element() -> UpdateRule:
    """Multiply the forces on each atom by a learnable positive factor of its element, 1 at first.

    A fixed point stays one: only the way there changes.
    """
    hyper = {"log_element_scale": jnp.zeros(LAST_ELEMENT + 1)}

    def init(hyper, system):
        del hyper, system
        return ()

    def update(hyper, forces, rule_state, system):
        factors = transforms.to_positive(hyper["log_element_scale"]).astype(forces.dtype)
        return factors[system.species][:, None] * forces, rule_state

    return UpdateRule(hyper, init, update)


class StepState(NamedTuple):
    """Memory of `scale_by_step`.

    Attributes:
        step: () int, steps made.
    """

    step: Array


def scale_by_step(num_steps: int) -> UpdateRule:
    """Multiply the forces by a learnable positive factor of the step, 1 at first; the last one serves all later steps.

    Args:
        num_steps: with a factor of their own.

    Raises:
        ValueError: no steps.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    hyper = {"log_step_scale": jnp.zeros(num_steps)}

    def init(hyper, system) -> StepState:
        del hyper, system
        return StepState(jnp.zeros((), jnp.int32))

    def update(hyper, forces, rule_state, system):
        del system
        factors = transforms.to_positive(hyper["log_step_scale"]).astype(forces.dtype)
        factor = factors[jnp.minimum(rule_state.step, num_steps - 1)]
        return factor * forces, StepState(rule_state.step + 1)

    return UpdateRule(hyper, init, update)
