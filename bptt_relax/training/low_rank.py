"""Low-rank updates: each matrix moves by a product of two thin factors, everything else stays as it was.

theta = theta_0 + A B with A (m, r) and B (r, n) per matrix. A starts random and B at zero, so training starts at
theta_0. Only the factors train; theta_0 travels with them, so that stages and seeds share one compiled program, and
the merged weights are ordinary ones: nothing that validates, saves or exports a model knows of factors.

References:
    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, PyTree
from bptt_relax.outcomes import InputError
from bptt_relax.relax import Theta
from bptt_relax.training.train_step import Objective
from bptt_relax.trees import path_name


class LowRank(NamedTuple):
    """A pytree and its low-rank update, as leaves by path: only matrices that train have factors.

    Attributes:
        base: any pytree.
        left: path -> (..., m, r).
        right: path -> (..., r, n).
    """

    base: PyTree
    left: dict[str, Array]
    right: dict[str, Array]


def factor(tree: PyTree, rank: int, chosen: PyTree, *, seed: int = 0) -> LowRank:
    """Factors for every chosen matrix of a pytree; axes before the last two are stacked matrices.

    Args:
        tree: what is to be updated.
        rank: of the update; a matrix with a shorter side gets that.
        chosen: pytree of bools like ``tree``, what may change.
        seed: of the left factors.

    Raises:
        ValueError: the rank is not positive.
        InputError: no matrix may change.
    """
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    left, right = {}, {}
    may_change = jax.tree.leaves(chosen)
    for (path, leaf), train in zip(jax.tree_util.tree_leaves_with_path(tree), may_change, strict=True):
        shape = jnp.shape(leaf)
        if not train or len(shape) < 2 or min(shape[-2:]) < 2:
            continue
        *stacked, m, n = shape
        r = min(rank, m, n)
        name = path_name(path)
        # By name, so that a matrix starts alike whatever else is frozen.
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        dtype = jnp.result_type(leaf)
        left[name] = jnp.asarray(rng.normal(scale=m**-0.5, size=(*stacked, m, r)), dtype)
        right[name] = jnp.zeros((*stacked, r, n), dtype)
    if not left:
        raise InputError(
            "low-rank updates need a matrix that may train, and there is none: leave out the rank"
        )
    return LowRank(tree, left, right)


@full_matmul
def merge(factored: LowRank) -> PyTree:
    """The pytree that base and factors stand for."""

    def updated(path: tuple, leaf: Array) -> Array:
        name = path_name(path)
        return leaf + factored.left[name] @ factored.right[name] if name in factored.left else leaf

    return jax.tree_util.tree_map_with_path(updated, factored.base)


def factors_only(factored: LowRank) -> LowRank:
    """Booleans: True for the factors, False for the base."""
    return LowRank(
        jax.tree.map(lambda _: False, factored.base),
        *(jax.tree.map(lambda _: True, part) for part in factored[1:]),
    )


def merge_theta(theta: Theta) -> Theta:
    """Ordinary weights of a theta whose potential is factored."""
    return theta._replace(potential=merge(theta.potential))


def on_factors(objective: Objective) -> Objective:
    """The same objective as a function of factored weights.

    Args:
        objective: of ordinary weights.
    """

    def wrap(value_and_grad: Callable) -> Callable:
        def of_factors(theta: Theta, example: PyTree) -> tuple[Any, Theta]:
            value, gradient = value_and_grad(merge_theta(theta), example)
            return value, _pull_back(theta, gradient)

        return of_factors

    return objective._replace(
        value_and_grad=wrap(objective.value_and_grad),
        through_rebuilds=None if objective.through_rebuilds is None else wrap(objective.through_rebuilds),
    )


@full_matmul
def _pull_back(theta: Theta, gradient: Theta) -> Theta:
    """Gradient by the factors from the gradient by the weights: dA = G B^T, dB = A^T G; the base gets none."""
    factored = theta.potential
    by_name = {
        path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradient.potential)
    }
    left = {name: by_name[name] @ jnp.swapaxes(right, -1, -2) for name, right in factored.right.items()}
    right = {name: jnp.swapaxes(a, -1, -2) @ by_name[name] for name, a in factored.left.items()}
    base = jax.tree.map(jnp.zeros_like, factored.base)
    return gradient._replace(potential=LowRank(base, left, right))
