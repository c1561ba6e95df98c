"""The contract of an adjoint: how to run, and differentiate, a fixed number of steps."""

from collections.abc import Callable
from typing import Protocol

from bptt_relax._types import PyTree
from bptt_relax.relax import Relaxation, RelaxState, Theta
from bptt_relax.systems import System

RecordFn = Callable[[RelaxState], PyTree]
"""What to keep of the state after each step; its outputs are stacked along a new first axis."""

RunFn = Callable[[Theta, RelaxState, System], tuple[RelaxState, PyTree]]
"""(theta, state, system) -> (final state, stacked record)."""


class Adjoint(Protocol):
    """How to differentiate is an argument, never a subclass of the relaxation."""

    def build(self, relaxation: Relaxation, num_steps: int, record: RecordFn) -> RunFn:
        """A function that relaxes for at most ``num_steps`` steps with this way of differentiating.

        Args:
            relaxation: from `relax.relaxation`.
            num_steps: length of the unroll; a state that has made steps already makes only the remaining ones.
            record: what to keep of each step.
        """
        ...
