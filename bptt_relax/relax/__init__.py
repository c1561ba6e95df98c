"""Relaxations: update rules, their composition, and the step they make."""

from bptt_relax.relax._contract import (
    Evaluation,
    Relaxation,
    RelaxState,
    Theta,
    UpdateRule,
)
from bptt_relax.relax.cap import cap_displacement
from bptt_relax.relax.chain import chain
from bptt_relax.relax.descent import descent
from bptt_relax.relax.momentum import momentum
from bptt_relax.relax.relaxation import relaxation

__all__ = [
    "Evaluation",
    "RelaxState",
    "Relaxation",
    "Theta",
    "UpdateRule",
    "cap_displacement",
    "chain",
    "descent",
    "momentum",
    "relaxation",
]
