"""Relaxations: update rules, their composition, and the step they make."""

from bptt_relax.relax._contract import (
    Carry,
    Evaluation,
    Relaxation,
    RelaxInfo,
    RelaxState,
    Theta,
    UpdateRule,
)
from bptt_relax.relax._step import set_running
from bptt_relax.relax._strain import Strain
from bptt_relax.relax.adapt_jax_md import from_jax_md, to_jax_md
from bptt_relax.relax.adapt_optax import from_optax
from bptt_relax.relax.cap import cap_displacement
from bptt_relax.relax.chain import chain
from bptt_relax.relax.descent import descent
from bptt_relax.relax.drift import remove_drift
from bptt_relax.relax.fire import fire
from bptt_relax.relax.momentum import momentum
from bptt_relax.relax.relaxation import relaxation
from bptt_relax.relax.scale import scale_by_element, scale_by_step
from bptt_relax.relax.variable_cell import variable_cell_relaxation

__all__ = [
    "Carry",
    "Evaluation",
    "RelaxInfo",
    "RelaxState",
    "Relaxation",
    "Strain",
    "Theta",
    "UpdateRule",
    "cap_displacement",
    "chain",
    "descent",
    "fire",
    "from_jax_md",
    "from_optax",
    "momentum",
    "relaxation",
    "remove_drift",
    "scale_by_element",
    "scale_by_step",
    "set_running",
    "to_jax_md",
    "variable_cell_relaxation",
]
