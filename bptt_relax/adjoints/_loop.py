"""The one loop that every adjoint runs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from bptt_relax._types import PyTree
from bptt_relax.adjoints._contract import RecordFn, RunFn
from bptt_relax.outcomes import Outcome
from bptt_relax.relax import Relaxation, RelaxState, Theta
from bptt_relax.relax._contract import EvaluateFn
from bptt_relax.systems import System

BodyFn = Callable[[Theta, RelaxState, System], RelaxState]

PullbackFn = Callable[[Theta, RelaxState, RelaxState, System, RelaxState], tuple[Theta, RelaxState]]
"""(theta, first state, final state, system, cotangent of the final state) -> cotangents of theta and first state."""


def limited_step(relaxation: Relaxation, num_steps: int, evaluate: EvaluateFn | None = None) -> BodyFn:
    """The relaxation's step, the identity once ``num_steps`` displacements were made.

    Args:
        relaxation: gives the step.
        num_steps: total number of displacements, counted in the state, so that an unroll continued after a
            rebuild of the neighbors ends where an uninterrupted one would.
        evaluate: how to evaluate the potential, the relaxation's own when not given.
    """
    evaluate = relaxation.evaluate if evaluate is None else evaluate

    def step(theta: Theta, state: RelaxState, system: System) -> RelaxState:
        # A relaxation leaves alone what has an outcome. A branch of our own around its branch would be traced,
        # differentiated and compiled once more.
        may_move = state.steps < num_steps
        held = jnp.where(may_move, state.outcome, int(Outcome.CONVERGED))
        after = relaxation.advance(evaluate, theta, state._replace(outcome=held), system)
        return after._replace(outcome=jnp.where(may_move, after.outcome, state.outcome))

    return step


def scan_steps(body: BodyFn, length: int, record: RecordFn, theta: Theta, state: RelaxState, system: System):
    """Run ``body`` ``length`` times and stack what ``record`` keeps of each new state."""

    def one(state: RelaxState, _):
        state = body(theta, state, system)
        return state, record(state)

    return lax.scan(one, state, None, length=length)


def scan_with_pullback(body: BodyFn, length: int, record: RecordFn, pullback: PullbackFn) -> RunFn:
    """Run ``body`` ``length`` times, storing nothing, with a gradient of one's own.

    What ``record`` keeps carries no gradient, and the system, whose cell enters through the state, gets none.

    Args:
        body: one step.
        length: number of steps.
        record: what to keep of each step.
        pullback: the reverse mode of the whole run.
    """

    def run(theta: Theta, state: RelaxState, system: System) -> tuple[RelaxState, PyTree]:
        return scan_steps(body, length, record, theta, state, system)

    def forward(theta, state, system):
        final, trace = run(theta, state, system)
        return (final, trace), (theta, state, final, system)

    def backward(residuals, cotangents):
        theta, state, final, system = residuals
        return *pullback(theta, state, final, system, cotangents[0]), None

    with_pullback = jax.custom_vjp(run)
    with_pullback.defvjp(forward, backward)
    return with_pullback
