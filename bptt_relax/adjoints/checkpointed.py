"""Exact reverse mode that stores states instead of intermediates and recomputes the rest."""

from dataclasses import dataclass

import jax

from bptt_relax.adjoints._contract import RecordFn, RunFn
from bptt_relax.adjoints._loop import limited_step, scan_steps
from bptt_relax.relax import Relaxation


@dataclass(frozen=True)
class Checkpointed:
    """Store the state of each step; recompute its forces on the way back. Exact, and the default.

    Costs one more force evaluation per step and N * 6 floats of memory per step.
    """

    def build(self, relaxation: Relaxation, num_steps: int, record: RecordFn) -> RunFn:
        """See `Adjoint.build`."""
        # Inside a scan nothing can be shared between the two passes, so the barrier against it is not needed.
        step = jax.checkpoint(limited_step(relaxation, num_steps), prevent_cse=False)

        def run(theta, state, system):
            return scan_steps(step, num_steps, record, theta, state, system)

        return run
