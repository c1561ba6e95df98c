"""Plain reverse mode through a plain scan: everything is stored. For debugging and as the reference."""

from dataclasses import dataclass

from bptt_relax.adjoints._contract import Adjoint, RecordFn, RunFn
from bptt_relax.adjoints._loop import limited_step, scan_steps
from bptt_relax.adjoints.checkpointed import Checkpointed
from bptt_relax.relax import Relaxation


@dataclass(frozen=True)
class Full(Adjoint):
    """Store every intermediate of every step. Exact; memory grows with steps times the size of a force graph."""

    @property
    def name(self) -> str:
        """See `Adjoint.name`; of that name `named` makes one that stores less and has the same gradient."""
        return "full"

    @property
    def leaner(self) -> tuple[Adjoint, ...]:
        """See `Adjoint.leaner`."""
        fastest = Checkpointed("force")
        return fastest, *fastest.leaner

    def stored_states(self, num_steps: int) -> int:
        """See `Adjoint.stored_states`; here with every intermediate of the step."""
        return num_steps

    def build(self, relaxation: Relaxation, num_steps: int, record: RecordFn) -> RunFn:
        """See `Adjoint.build`."""
        step = limited_step(relaxation, num_steps)

        def run(theta, carry, system):
            return scan_steps(step, num_steps, record, theta, carry, system)

        return run
