"""Which part of theta an end depends on, the potential or the update rule, in units that can be compared."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax import losses
from bptt_relax._types import Array, PyTree, Scalar
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import Pair
from bptt_relax.trees import global_norm
from bptt_relax.unrolling import path, unroll


class Sensitivity(NamedTuple):
    """How much Delta Q after some steps changes with each part of theta, sqrt(u)*angstrom per relative change.

    The largest first-order change of Delta Q over all changes whose norm is that fraction of the norm of the part:
    |dDelta Q / dp| |p|. The rule's numbers are stored as logarithms and logits, so their changes are relative as they
    stand; per unit of each, |dDelta Q / dp|.

    Attributes:
        steps: numbers of steps.
        potential: one value for each.
        rule: likewise.
    """

    steps: tuple[int, ...]
    potential: tuple[float, ...]
    rule: tuple[float, ...]


def make_sensitivity(relaxation: Relaxation, steps: Sequence[int]) -> Callable[[Theta, Pair], Sensitivity]:
    """Build a host function that finds the sensitivity of one structure's Delta Q to both parts of theta.

    Args:
        relaxation: without tolerance, or what has converged stays where it is.
        steps: numbers of steps to look at.

    Raises:
        ValueError: no steps, or one below 1.
    """
    if not steps or min(steps) < 1:
        raise ValueError(f"steps must be positive and at least one, got {tuple(steps)}")
    run = unroll(relaxation, max(steps), record=path)

    def distance(theta: Theta, pair: Pair, step: Array) -> Scalar:
        result = run(theta, relaxation.init(theta, pair.initial, pair.system), pair.system)
        return losses.delta_q(result.trace["positions"][step], pair.relaxed, pair.system)

    # The step is an argument: one program serves all of them.
    gradient = jax.jit(jax.grad(distance))

    def sensitivity(theta: Theta, pair: Pair) -> Sensitivity:
        found = [gradient(theta, pair, jnp.asarray(step - 1)) for step in steps]
        size = float(global_norm(theta.potential))
        return Sensitivity(
            tuple(steps),
            tuple(float(global_norm(g.potential)) * size for g in found),
            tuple(float(global_norm(g.rule)) for g in found),
        )

    return sensitivity


class Movement(NamedTuple):
    """How far training moved each part of theta.

    Attributes:
        potential: norm of the change of the parameters over their norm.
        rule: root mean square change of the numbers that changed, as stored: 0.1 is about 10% of a step size.
    """

    potential: float
    rule: float


def movement(before: Theta, after: Theta) -> Movement:
    """Compare two thetas; on the host.

    Args:
        before: a model.
        after: the same model later.
    """
    change = jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), before, after)
    moved = np.concatenate([np.zeros(0), *(np.ravel(leaf) for leaf in jax.tree.leaves(change.rule))])
    moved = moved[moved != 0]
    return Movement(
        float(global_norm(change.potential)) / float(global_norm(before.potential)),
        float(np.sqrt(np.mean(moved**2))) if moved.size else 0.0,
    )


def end_shift(ends: Sequence[np.ndarray], others: Sequence[np.ndarray], pairs: Sequence[Pair]) -> list[float]:
    """Mass-weighted distances between two models' ends of the same relaxations, sqrt(u)*angstrom.

    Args:
        ends: (n, 3) angstrom, one for each structure.
        others: the same, of another model.
        pairs: of the structures: masses, cell, padding.
    """
    measure = jax.jit(losses.delta_q)

    def padded(positions: np.ndarray, pair: Pair) -> Array:
        missing = pair.relaxed.shape[0] - len(positions)
        return jnp.asarray(np.pad(positions, ((0, missing), (0, 0))), pair.relaxed.dtype)

    return [
        float(measure(padded(a, pair), padded(b, pair), pair.system))
        for a, b, pair in zip(ends, others, pairs, strict=True)
    ]


def rule_values(rule: PyTree) -> dict[str, float | list[float]]:
    """The numbers of a rule as stored, by path; tables as lists."""
    found = {}
    for key, leaf in jax.tree_util.tree_leaves_with_path(rule):
        name = str(getattr(key[-1], "key", key[-1]))
        found[name] = np.asarray(leaf).tolist()
    return found
