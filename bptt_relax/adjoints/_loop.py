"""The one loop that every adjoint runs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from bptt_relax._types import PyTree
from bptt_relax.adjoints._contract import RecordFn, RunFn
from bptt_relax.outcomes import Outcome
from bptt_relax.relax import Carry, Relaxation, Theta
from bptt_relax.relax._contract import EvaluateFn
from bptt_relax.systems import System

BodyFn = Callable[[Theta, Carry, System], Carry]

PullbackFn = Callable[[Theta, Carry, Carry, System, Carry], tuple[Theta, Carry]]
"""(theta, first carry, final carry, system, cotangent of the final carry) -> cotangents of theta and first carry."""


def limited_step(relaxation: Relaxation, num_steps: int, evaluate: EvaluateFn | None = None) -> BodyFn:
    """The relaxation's step, the identity once ``num_steps`` displacements were made.

    Args:
        relaxation: gives the step.
        num_steps: total number of displacements, counted in the state, so that an unroll continued after a
            rebuild of the neighbors ends where an uninterrupted one would.
        evaluate: how to evaluate the potential, the relaxation's own when not given.
    """
    evaluate = relaxation.evaluate if evaluate is None else evaluate

    def step(theta: Theta, carry: Carry, system: System) -> Carry:
        state = carry.state
        # A relaxation leaves alone what has an outcome. A branch of our own around its branch would be traced,
        # differentiated and compiled once more.
        may_move = state.steps < num_steps
        held = jnp.where(may_move, state.outcome, int(Outcome.CONVERGED))
        after, info = relaxation.advance(
            evaluate, theta, carry._replace(state=state._replace(outcome=held)), system
        )
        return Carry(after._replace(outcome=jnp.where(may_move, after.outcome, state.outcome)), info)

    return step


def scan_steps(
    body: BodyFn, length: int, record: RecordFn, theta: Theta, carry: Carry, system: System
) -> tuple[Carry, PyTree]:
    """Run ``body`` ``length`` times and stack what ``record`` keeps of each step."""

    def one(carry: Carry, _):
        carry = body(theta, carry, system)
        return carry, record(*carry)

    return lax.scan(one, carry, None, length=length)


def scan_with_pullback(body: BodyFn, length: int, record: RecordFn, pullback: PullbackFn) -> RunFn:
    """Run ``body`` ``length`` times, storing nothing, with a gradient of one's own.

    What ``record`` keeps carries no gradient, and the system, whose cell enters through the state, gets none.

    Args:
        body: one step.
        length: number of steps.
        record: what to keep of each step.
        pullback: the reverse mode of the whole run.
    """

    def run(theta: Theta, carry: Carry, system: System) -> tuple[Carry, PyTree]:
        return scan_steps(body, length, record, theta, carry, system)

    def forward(theta, carry, system):
        final, trace = run(theta, carry, system)
        return (final, trace), (theta, carry, final, system)

    def backward(residuals, cotangents):
        theta, carry, final, system = residuals
        return *pullback(theta, carry, final, system, cotangents[0]), None

    with_pullback = jax.custom_vjp(run)
    with_pullback.defvjp(forward, backward)
    return with_pullback
