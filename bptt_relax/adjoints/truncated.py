"""Gradients through some of the steps only: cheaper, bounded, and not exact."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax import lax

from bptt_relax.adjoints import _floats
from bptt_relax.adjoints._contract import Adjoint, RecordFn, RunFn
from bptt_relax.adjoints._loop import limited_step, scan_steps, scan_with_pullback
from bptt_relax.adjoints.checkpointed import checkpointed_step
from bptt_relax.relax import Carry, Relaxation


@dataclass(frozen=True)
class Truncated(Adjoint):
    """Differentiate the first or the last displacements; exact, and equal to `Full`, when that is all of them.

    ``first=K``: x_T = x_K + (x_T - x_K), the bracket without a gradient. The cotangent of the final state is handed
    to the state after K displacements as it is (d state_T / d state_K := 1) and from there back through the K
    steps to theta and to the start.

    ``last=K``: x_{T-K} without a gradient, then K steps with one. The displacements counted are those that were made:
    a structure that stops after 40 of 100 steps is differentiated through the last K of these 40, where a window
    fixed in advance would find nothing. The start gets a gradient only if there were no more than K. After a
    rebuild of the neighbors the count begins anew.

    What is recorded outside the window carries no gradient; with ``last`` nothing recorded does.

    Attributes:
        first: K, counted from the start; or
        last: K, counted from the end. Exactly one of the two.

    Raises:
        ValueError: not exactly one is given, or it is not a positive integer.

    References:
        Tallec and Ollivier, arXiv:1705.08209. That dropping the early derivatives pays: arXiv:2602.19733.
    """

    names: ClassVar[tuple[str, ...]] = ("first_K", "last_K")

    first: int | None = None
    last: int | None = None

    def __post_init__(self):
        if (self.first is None) == (self.last is None):
            raise ValueError(
                f"give exactly one of first and last, got first={self.first} and last={self.last}"
            )
        for name in ("first", "last"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")

    @classmethod
    def from_name(cls, word: str, steps: int | None, arguments: Mapping[str, Any]) -> Self:
        """See `Adjoint.from_name`."""
        del arguments
        return cls(**{word: steps})

    @property
    def name(self) -> str:
        """See `Adjoint.name`."""
        return f"last_{self.last}" if self.first is None else f"first_{self.first}"

    def stored_states(self, num_steps: int) -> int:
        """See `Adjoint.stored_states`; the last ones are kept once on the way and once for the way back."""
        return min(self.first, num_steps) if self.first else 2 * min(self.last or 0, num_steps)

    def build(self, relaxation: Relaxation, num_steps: int, record: RecordFn) -> RunFn:
        """See `Adjoint.build`."""
        if self.first is not None:
            return window_then(relaxation, min(self.first, num_steps), num_steps, record, _straight_through)
        assert self.last is not None
        return _last(relaxation, min(self.last, num_steps), num_steps, record)


def window_then(relaxation: Relaxation, window: int, num_steps: int, record: RecordFn, pullback) -> RunFn:
    """Differentiate ``window`` displacements exactly and the rest by ``pullback`` (`_loop.PullbackFn`)."""
    step = checkpointed_step(relaxation, window, lean=True)
    if window == num_steps:
        return lambda theta, carry, system: scan_steps(step, window, record, theta, carry, system)
    rest = scan_with_pullback(limited_step(relaxation, num_steps), num_steps - window, record, pullback)

    def run(theta, carry, system):
        middle, early = scan_steps(step, window, record, theta, carry, system)
        final, late = rest(theta, middle, system)
        return final, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early, late)

    return run


def _straight_through(theta, carry, final, system, cotangent):
    del carry, final, system
    return _floats.zero_cotangents(theta), cotangent


def _last(relaxation: Relaxation, window: int, num_steps: int, record: RecordFn) -> RunFn:
    step = limited_step(relaxation, num_steps)
    differentiated = checkpointed_step(relaxation, num_steps, lean=True)

    def run(theta, carry, system):
        fixed = lax.stop_gradient(theta)
        state, begun = carry.state, carry.state.steps

        def one(loop, _):
            before, buffer = loop
            after = step(fixed, before, system)
            here = before.state
            # A ring of the states before the last displacements. One that does not move leaves it as it is.
            slot = (here.steps - begun) % window
            moved = after.state.steps > here.steps
            buffer = jax.tree.map(lambda b, h: b.at[slot].set(jnp.where(moved, h, b[slot])), buffer, here)
            return (after, buffer), record(*after)

        still: Carry = lax.stop_gradient(carry)
        buffer = jax.tree.map(lambda x: jnp.zeros((window, *jnp.shape(x)), jnp.result_type(x)), still.state)
        (final, buffer), trace = lax.scan(one, (still, buffer), None, length=num_steps)

        made = final.state.steps - begun
        earlier = jax.tree.map(lambda b: b[made % window], buffer)
        start = jax.tree.map(lambda s, e: jnp.where(made > window, e, s), state, earlier)
        # One more than the window: a structure that stops does so in an evaluation without a displacement.
        final, _ = scan_steps(
            differentiated, window + 1, lambda *_: (), theta, carry._replace(state=start), system
        )
        return final, trace

    return run
