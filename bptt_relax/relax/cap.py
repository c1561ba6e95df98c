"""A bound on how far atoms move in one step."""

import jax.numpy as jnp

from bptt_relax.relax._contract import UpdateRule
from bptt_relax.trees import safe_norm


def cap_displacement(largest: float) -> UpdateRule:
    """Scale a structure's displacement down so that no atom moves further than ``largest``.

    The direction of the step is kept, and each structure is scaled by its own largest displacement.

    Args:
        largest: angstrom; a trust radius, not learnable.

    Raises:
        ValueError: ``largest`` is not positive.
    """
    if not largest > 0:
        raise ValueError(f"largest must be positive, got {largest}")

    def init(hyper, system):
        del hyper, system
        return ()

    def update(hyper, forces, rule_state, system):
        del hyper, system
        furthest = jnp.max(safe_norm(forces))
        too_far = furthest > largest
        scale = jnp.where(too_far, largest / jnp.where(too_far, furthest, 1.0), 1.0)
        return scale * forces, rule_state

    return UpdateRule((), init, update)
