"""Adjoints: how to differentiate through a relaxation."""

from bptt_relax.adjoints._contract import Adjoint, RecordFn, RunFn
from bptt_relax.adjoints.checkpointed import Checkpointed
from bptt_relax.adjoints.full import Full

__all__ = ["Adjoint", "Checkpointed", "Full", "RecordFn", "RunFn"]
