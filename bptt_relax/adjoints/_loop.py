"""The one loop that every adjoint runs."""

from collections.abc import Callable

from jax import lax

from bptt_relax.adjoints._contract import RecordFn
from bptt_relax.relax import Relaxation, RelaxState, Theta
from bptt_relax.relax._contract import EvaluateFn
from bptt_relax.systems import System

BodyFn = Callable[[Theta, RelaxState, System], RelaxState]


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
        return lax.cond(
            state.steps < num_steps,
            lambda s: relaxation.advance(evaluate, theta, s, system),
            lambda s: s,
            state,
        )

    return step


def scan_steps(body: BodyFn, length: int, record: RecordFn, theta: Theta, state: RelaxState, system: System):
    """Run ``body`` ``length`` times and stack what ``record`` keeps of each new state."""

    def one(state: RelaxState, _):
        state = body(theta, state, system)
        return state, record(state)

    return lax.scan(one, state, None, length=length)
