"""Losses: one value per structure; weighting and reduction belong to the caller."""

from bptt_relax.losses._displacement import delta_q, displacement, max_displacement, rmsd
from bptt_relax.losses._matching import energy_mse_per_atom, force_huber, force_mae, force_mse, max_force

__all__ = [
    "delta_q",
    "displacement",
    "energy_mse_per_atom",
    "force_huber",
    "force_mae",
    "force_mse",
    "max_displacement",
    "max_force",
    "rmsd",
]
