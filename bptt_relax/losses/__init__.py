"""Losses: one value per structure; weighting and reduction belong to the caller."""

from bptt_relax.losses._cell import (
    angle_rmsd,
    carry,
    cell_angles,
    cell_lengths,
    cell_strain,
    length_rmsd,
    volume_error,
)
from bptt_relax.losses._displacement import delta_q, displacement, max_displacement, pseudo_huber, rmsd
from bptt_relax.losses._matching import (
    energy_mse_per_atom,
    force_distance,
    force_huber,
    force_mae,
    force_mse,
    max_force,
)

__all__ = [
    "angle_rmsd",
    "carry",
    "cell_angles",
    "cell_lengths",
    "cell_strain",
    "delta_q",
    "displacement",
    "energy_mse_per_atom",
    "force_distance",
    "force_huber",
    "force_mae",
    "force_mse",
    "length_rmsd",
    "max_displacement",
    "max_force",
    "pseudo_huber",
    "rmsd",
    "volume_error",
]
