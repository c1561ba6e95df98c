"""Plain reverse mode through a plain scan: everything is stored. For debugging and as the reference."""

from dataclasses import dataclass

from bptt_relax.adjoints._contract import RecordFn, RunFn
from bptt_relax.adjoints._loop import limited_step, scan_steps
from bptt_relax.relax import Relaxation


@dataclass(frozen=True)
class Full:
    """Store every intermediate of every step. Exact; memory grows with steps times the size of a force graph."""

    def build(self, relaxation: Relaxation, num_steps: int, record: RecordFn) -> RunFn:
        """See `Adjoint.build`."""
        step = limited_step(relaxation, num_steps)

        def run(theta, state, system):
            return scan_steps(step, num_steps, record, theta, state, system)

        return run
