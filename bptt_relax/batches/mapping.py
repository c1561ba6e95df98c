"""One function of one structure, over many of the same layout: in turn on a CPU, side by side elsewhere."""

from collections.abc import Callable
from typing import Literal

import jax
from jax import lax

from bptt_relax._types import PyTree

Mapping = Literal["in_turn", "side_by_side"]


def over_structures(function: Callable[..., PyTree], mapping: Mapping | None = None) -> Callable[..., PyTree]:
    """Map a function over structures that share a layout; to be jitted and differentiated like the function itself.

    Nothing passes from one structure to another, neither a gradient nor a NaN: what is summed over structures is
    summed by the caller, who can leave out those that failed (`trees.all_finite`). To keep them apart in the gradient
    with respect to theta too, map the gradient: ``over_structures(jax.value_and_grad(loss))``.

    Args:
        function: (theta, one structure's arguments...) -> pytree; for example what `unrolling.unroll` returns.
        mapping: "in_turn" (``lax.map``; a structure that has converged costs nothing, and memory is that of one) or
            "side_by_side" (``vmap``; one that has converged is masked). By default in turn on a CPU, where vmap is
            slower by half, and side by side elsewhere.

    Returns:
        (theta, arguments stacked along a new first axis (`trees.stack`)...) -> outputs stacked likewise.

    Raises:
        ValueError: unknown mapping.
    """
    if choose_mapping(mapping) == "side_by_side":
        return lambda theta, *arguments: jax.vmap(function, (None, *(0 for _ in arguments)))(
            theta, *arguments
        )
    return lambda theta, *arguments: lax.map(lambda one: function(theta, *one), arguments)


def choose_mapping(mapping: Mapping | None) -> Mapping:
    """The mapping itself, or what suits the backend.

    Raises:
        ValueError: unknown mapping.
    """
    if mapping is None:
        return "in_turn" if jax.default_backend() == "cpu" else "side_by_side"
    if mapping not in ("in_turn", "side_by_side"):
        raise ValueError(f"mapping must be 'in_turn', 'side_by_side' or None, got {mapping!r}")
    return mapping
