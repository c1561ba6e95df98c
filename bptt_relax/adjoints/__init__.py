"""Adjoints: how to differentiate through a relaxation."""

from bptt_relax.adjoints._contract import Adjoint, RecordFn, RunFn
from bptt_relax.adjoints._named import named
from bptt_relax.adjoints.checkpointed import Checkpointed
from bptt_relax.adjoints.frozen import FrozenGeometry
from bptt_relax.adjoints.full import Full
from bptt_relax.adjoints.guided import Guided
from bptt_relax.adjoints.implicit import Implicit, ImplicitReport, Usable
from bptt_relax.adjoints.truncated import Truncated

__all__ = [
    "Adjoint",
    "Checkpointed",
    "FrozenGeometry",
    "Full",
    "Guided",
    "Implicit",
    "ImplicitReport",
    "RecordFn",
    "RunFn",
    "Truncated",
    "Usable",
    "named",
]
