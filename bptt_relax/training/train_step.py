"""The pure train step. Everything that logs, saves or decides lives elsewhere."""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bptt_relax._types import Array, PyTree, Scalar
from bptt_relax.batches.mapping import Mapping, choose_mapping
from bptt_relax.outcomes import Outcome
from bptt_relax.relax import Theta
from bptt_relax.training.packing import Packed, pack
from bptt_relax.trees import all_finite, global_norm, where

ValueAndGradFn = Callable[[Theta, PyTree], tuple[tuple[Scalar, Array], Theta]]
"""(theta, example) -> ((loss, outcome code), gradient)."""


class Objective(NamedTuple):
    """What a stage of training minimizes, on one example.

    Attributes:
        value_and_grad: pure, to be mapped over examples and jitted.
        through_rebuilds: the same on the host for an example whose neighbors went stale on the way, or None
            where that cannot happen.
        label: how the gradient is taken, for messages.
    """

    value_and_grad: ValueAndGradFn
    through_rebuilds: ValueAndGradFn | None = None
    label: str = "this gradient"


class ExampleReport(NamedTuple):
    """What the gradient of one example has to say; of several examples, stacked.

    Attributes:
        loss: ().
        grad_norm: () of the gradient.
        outcome: () int, `outcomes.Outcome` of the relaxation behind the loss.
        used: () bool; False when loss or gradient is not finite, or the neighbors were stale.
    """

    loss: Scalar
    grad_norm: Scalar
    outcome: Array
    used: Array


class GradientSum(NamedTuple):
    """Gradients of several examples, added up.

    Attributes:
        total: sum over the examples that could be used; like theta.
        count: () int, how many they are.
        reports: of every example, stacked.
    """

    total: Theta
    count: Array
    reports: ExampleReport


GradientSumFn = Callable[[Theta, PyTree, Array], GradientSum]


def example_gradient(
    gradient_fn: ValueAndGradFn, theta: Theta | Packed, example: PyTree, counts: Array | bool = True
) -> tuple[Theta | Packed, ExampleReport]:
    """The gradient of one example and its report; zero where it can't be used or does not count.

    Args:
        gradient_fn: of one example.
        theta: parameters; those that are packed have a packed gradient.
        example: to learn from.
        counts: () bool.
    """
    if isinstance(theta, Packed):
        (value, outcome), unpacked = gradient_fn(theta.unpack(), example)
        gradient = pack(unpacked)
    else:
        (value, outcome), gradient = gradient_fn(theta, example)
    used = counts & jnp.isfinite(value) & all_finite(gradient) & (outcome < Outcome.STALE_NEIGHBORS)
    report = ExampleReport(value, global_norm(gradient), outcome, used)
    # Selected and not multiplied: zero times a NaN is NaN.
    return where(used, gradient, jax.tree.map(jnp.zeros_like, gradient)), report


def gradient_sum(objective: Objective, mapping: Mapping | None = None) -> GradientSumFn:
    """Build the sum of the gradients over examples of one shape; nothing passes from one example to another.

    Args:
        objective: of one example.
        mapping: as `batches.over_structures`: in turn with the memory of one example, or side by side.

    Returns:
        (theta, stacked examples, counts) -> `GradientSum`; ``counts`` (B,) bool is False for examples that only fill
        the batch. Where theta is packed (`packing.Packed`), so is the sum.
    """

    def side_by_side(theta: Theta, examples: PyTree, counts: Array) -> GradientSum:
        def one(example, counted):
            return example_gradient(objective.value_and_grad, theta, example, counted)

        gradients, reports = jax.vmap(one)(examples, counts)
        total = jax.tree.map(lambda rows: jnp.sum(rows, axis=0), gradients)
        return GradientSum(total, jnp.sum(reports.used), reports)

    def in_turn(theta: Theta, examples: PyTree, counts: Array) -> GradientSum:
        def one(total: Theta, given):
            gradient, report = example_gradient(objective.value_and_grad, theta, *given)
            return jax.tree.map(jnp.add, total, gradient), report

        total, reports = lax.scan(one, jax.tree.map(jnp.zeros_like, theta), (examples, counts))
        return GradientSum(total, jnp.sum(reports.used), reports)

    return in_turn if choose_mapping(mapping) == "in_turn" else side_by_side


class TrainState(NamedTuple):
    """What training carries.

    Attributes:
        theta: parameters.
        opt_state: of the Optax transformation.
        step: () int, updates applied.
        average: exponential moving average of theta over the updates: what to use in the end. With few structures
            per update, theta itself jitters around it.
    """

    theta: Theta
    opt_state: optax.OptState
    step: Array
    average: Theta


class BatchReport(NamedTuple):
    """What one train step has to say.

    Attributes:
        loss: () mean over the examples that were used; NaN where none was.
        grad_norm: () of their mean gradient, before clipping.
        applied: () bool; False when no example could be used: theta and optimizer are then untouched.
        examples: of each example, stacked.
    """

    loss: Scalar
    grad_norm: Scalar
    applied: Array
    examples: ExampleReport


TrainStepFn = Callable[[TrainState, PyTree], tuple[TrainState, BatchReport]]


def init_state(theta: Theta, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first update; copies theta, so that donation never deletes the caller's."""
    # Of a dtype that is meant: a weak one, as of a Python number, is gone after the first update, and everything is
    # compiled again.
    theta = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), theta)
    return TrainState(theta, optimizer.init(theta), jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, theta))


def apply_gradient(
    state: TrainState,
    gradient: Theta | Packed,
    optimizer: optax.GradientTransformation,
    averaging: float = 0.0,
    rate: float | Array = 1.0,
) -> TrainState:
    """Update theta; what is not finite leaves everything as it is.

    Args:
        state: before.
        gradient: like theta, packed where that is.
        optimizer: an Optax transformation.
        averaging: weight of the past in the moving average of theta; 0 for no averaging.
        rate: what updates are multiplied by.
    """
    usable = all_finite(gradient)
    # A NaN that is only selected away still poisons the optimizer's moments: feed it zeros instead.
    safe = where(usable, gradient, jax.tree.map(jnp.zeros_like, gradient))
    updates, opt_state = optimizer.update(safe, state.opt_state, state.theta)
    updates = jax.tree.map(lambda update: update * jnp.asarray(rate, update.dtype), updates)
    theta = cast(Theta, optax.apply_updates(state.theta, updates))
    # Early on the average forgets faster, or it would stay at the start for the first 1 / (1 - averaging) updates.
    weight = jnp.minimum(averaging, state.step / (state.step + 5.0))
    average = cast(Theta, optax.incremental_update(theta, state.average, 1.0 - weight))
    return where(usable, TrainState(theta, opt_state, state.step + 1, average), state)


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    averaging: float = 0.0,
    mapping: Mapping | None = None,
) -> TrainStepFn:
    """Build the pure step on a batch of examples of one shape.

    The gradient is the mean over the examples that could be used. Where the batch axis is sharded over devices
    (`jax.sharding`) the step runs on all of them.

    Args:
        objective: of one example.
        optimizer: an Optax transformation.
        averaging: as for `apply_gradient`.
        mapping: as for `gradient_sum`.

    Returns:
        (state, stacked examples (`trees.stack`)) -> (state, report).
    """
    add_up = gradient_sum(objective, mapping)

    def train_step(state: TrainState, examples: PyTree) -> tuple[TrainState, BatchReport]:
        size = jax.tree.leaves(examples)[0].shape[0]
        found = add_up(state.theta, examples, jnp.ones(size, bool))
        count = found.count.astype(found.reports.loss.dtype)
        mean = jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1.0), found.total)
        loss = jnp.sum(jnp.where(found.reports.used, found.reports.loss, 0.0)) / count
        applied = found.count > 0
        after = where(applied, apply_gradient(state, mean, optimizer, averaging), state)
        return after, BatchReport(loss, global_norm(mean), applied, found.reports)

    return train_step
