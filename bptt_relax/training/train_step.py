"""The pure train step. Everything that logs, saves or decides lives elsewhere."""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from bptt_relax._types import Array, PyTree, Scalar
from bptt_relax.outcomes import Outcome
from bptt_relax.relax import Theta
from bptt_relax.trees import all_finite, global_norm, where

ValueAndGradFn = Callable[[Theta, PyTree], tuple[tuple[Scalar, Array], Theta]]
"""(theta, example) -> ((loss, outcome code), gradient)."""


class Objective(NamedTuple):
    """What a stage of training minimizes, on one example at a time.

    Attributes:
        value_and_grad: pure, to be jitted.
        through_rebuilds: the same on the host for an example whose neighbors went stale on the way, or None
            where that cannot happen.
        label: how the gradient is taken, for messages.
        leaner: the same objective with a gradient that needs less memory, for when memory runs out; None where
            there is none.
    """

    value_and_grad: ValueAndGradFn
    through_rebuilds: ValueAndGradFn | None = None
    label: str = "this gradient"
    leaner: "Objective | None" = None


class TrainState(NamedTuple):
    """What training carries.

    Attributes:
        theta: parameters.
        opt_state: of the Optax transformation.
        step: () int, updates applied.
        average: exponential moving average of theta over the updates: what to use in the end. With one structure
            per update, theta itself jitters around it.
    """

    theta: Theta
    opt_state: optax.OptState
    step: Array
    average: Theta


class StepReport(NamedTuple):
    """What one train step has to say.

    Attributes:
        loss: () of this example.
        grad_norm: () before clipping.
        outcome: () int, `outcomes.Outcome` of the relaxation behind the loss.
        applied: () bool; False when loss or gradient is not finite, or the neighbors were stale: theta and
            optimizer are then untouched.
    """

    loss: Scalar
    grad_norm: Scalar
    outcome: Array
    applied: Array


TrainStepFn = Callable[[TrainState, PyTree], tuple[TrainState, StepReport]]


def init_state(theta: Theta, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first update; copies theta, so that donation never deletes the caller's."""
    # Of a dtype that is meant: a weak one, as of a Python number, is gone after the first update, and everything is
    # compiled again.
    theta = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), theta)
    return TrainState(theta, optimizer.init(theta), jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, theta))


def apply_gradient(
    state: TrainState,
    value: Scalar,
    outcome: Array,
    gradient: Theta,
    optimizer: optax.GradientTransformation,
    averaging: float = 0.0,
) -> tuple[TrainState, StepReport]:
    """Update theta, or leave everything as it is when the gradient can't be used.

    Args:
        state: before.
        value: loss.
        outcome: of the relaxation behind it.
        gradient: of the loss.
        optimizer: an Optax transformation.
        averaging: weight of the past in the moving average of theta; 0 for no averaging.
    """
    usable = jnp.isfinite(value) & all_finite(gradient) & (outcome < Outcome.STALE_NEIGHBORS)
    # A NaN that is only selected away still poisons the optimizer's moments: feed it zeros instead.
    safe = where(usable, gradient, jax.tree.map(jnp.zeros_like, gradient))
    updates, opt_state = optimizer.update(safe, state.opt_state, state.theta)
    theta = cast(Theta, optax.apply_updates(state.theta, updates))
    # Early on the average forgets faster, or it would stay at the start for the first 1 / (1 - averaging) updates.
    weight = jnp.minimum(averaging, state.step / (state.step + 5.0))
    average = cast(Theta, optax.incremental_update(theta, state.average, 1.0 - weight))
    updated = TrainState(theta, opt_state, state.step + 1, average)
    report = StepReport(value, global_norm(gradient), outcome, usable)
    return where(usable, updated, state), report


def make_train_step(
    objective: Objective, optimizer: optax.GradientTransformation, averaging: float = 0.0
) -> TrainStepFn:
    """Build the pure step (state, example) -> (state, report); arguments as for `apply_gradient`."""

    def train_step(state: TrainState, example: PyTree) -> tuple[TrainState, StepReport]:
        (value, outcome), gradient = objective.value_and_grad(state.theta, example)
        return apply_gradient(state, value, outcome, gradient, optimizer, averaging)

    return train_step
