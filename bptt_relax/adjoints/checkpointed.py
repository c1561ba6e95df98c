"""Exact reverse mode that stores states instead of intermediates and recomputes the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, isqrt
from typing import Any, ClassVar, Literal, Self

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from bptt_relax.adjoints._contract import Adjoint, RecordFn, RunFn
from bptt_relax.adjoints._loop import BodyFn, limited_step, scan_steps
from bptt_relax.relax import Relaxation

_EVALUATED = "bptt_relax_evaluation"
_keep_evaluation = jax.checkpoint_policies.save_only_these_names(_EVALUATED)


@dataclass(frozen=True)
class Checkpointed(Adjoint):
    """Store what each step starts from; recompute the rest on the way back. Exact.

    Attributes:
        what: how far to go.
            "step", the default: store each state, recompute the forces, transpose their computation. Works with
            every potential.
            "force": store each state and its forces, N * 3 floats more, and pull back through the forces as one
            reverse pass over one forward pass (`Potential.apply_lean`): no force is computed twice and less is
            transposed. The fastest. A potential without it, as with direct forces, is treated as in "step".
            "segments": store the state at the start of each segment and recompute the segment from there, with
            "force" inside. Memory grows with the square root of the number of steps, for one more forward pass.
            Pays where the states themselves are what fills memory, beyond some thousand steps.
        segment: steps in a segment, for "segments" only; about the square root of the number of steps when not
            given.

    Raises:
        ValueError: an argument is out of range, or ``segment`` is given without "segments".

    References:
        Griewank and Walther, doi:10.1145/347837.347846.
    """

    names: ClassVar[tuple[str, ...]] = ("full",)

    what: Literal["step", "force", "segments"] = "step"
    segment: int | None = None

    def __post_init__(self):
        if self.what not in ("step", "force", "segments"):
            raise ValueError(f"what must be 'step', 'force' or 'segments', got {self.what!r}")
        if self.segment is not None and self.what != "segments":
            raise ValueError(f"segment={self.segment} needs what='segments', got what={self.what!r}")
        if self.segment is not None and self.segment < 1:
            raise ValueError(f"segment must be a positive number of steps, got {self.segment}")

    @classmethod
    def from_name(cls, word: str, steps: int | None, arguments: Mapping[str, Any]) -> Self:
        """See `Adjoint.from_name`: the fastest way to the full gradient."""
        del word, steps, arguments
        return cls("force")

    @property
    def name(self) -> str:
        """See `Adjoint.name`."""
        return "full"

    @property
    def leaner(self) -> tuple[Adjoint, ...]:
        """See `Adjoint.leaner`."""
        return () if self.what == "segments" else (Checkpointed("segments"),)

    def stored_states(self, num_steps: int) -> int:
        """See `Adjoint.stored_states`."""
        if self.what != "segments":
            return num_steps
        length = self.segment_length(num_steps)
        return ceil(num_steps / length) + length

    def build(self, relaxation: Relaxation, num_steps: int, record: RecordFn) -> RunFn:
        """See `Adjoint.build`."""
        if self.what == "segments":
            return _segmented(relaxation, num_steps, self.segment_length(num_steps), record)
        step = checkpointed_step(relaxation, num_steps, lean=self.what == "force")

        def run(theta, carry, system):
            return scan_steps(step, num_steps, record, theta, carry, system)

        return run

    def segment_length(self, num_steps: int) -> int:
        """Steps in a segment of an unroll of this length."""
        return min(num_steps, self.segment or max(1, isqrt(num_steps)))


def checkpointed_step(relaxation: Relaxation, num_steps: int, *, lean: bool) -> BodyFn:
    """One step that stores its input and, when lean, what the potential said there."""
    # Inside a scan nothing can be shared between the two passes, so the barrier against it is not needed.
    if not lean or relaxation.evaluate_lean is None:
        return jax.checkpoint(limited_step(relaxation, num_steps), prevent_cse=False)
    evaluate_lean = relaxation.evaluate_lean

    def evaluate(theta, positions, cell, system):
        return checkpoint_name(evaluate_lean(theta, positions, cell, system), _EVALUATED)

    step = limited_step(relaxation, num_steps, evaluate)
    return jax.checkpoint(step, prevent_cse=False, policy=_keep_evaluation)


def _segmented(relaxation: Relaxation, num_steps: int, length: int, record: RecordFn) -> RunFn:
    step = checkpointed_step(relaxation, num_steps, lean=True)

    def segment(theta, carry, system):
        return scan_steps(step, length, record, theta, carry, system)

    segment = jax.checkpoint(segment, prevent_cse=False)
    count = ceil(num_steps / length)

    def run(theta, carry, system):
        # The last segment may be longer than what is left: beyond num_steps a step is the identity.
        final, trace = lax.scan(lambda c, _: segment(theta, c, system), carry, None, length=count)
        flat = jax.tree.map(lambda x: x.reshape(count * length, *x.shape[2:])[:num_steps], trace)
        return final, flat

    return run
