"""Structures and relaxations from and to files, checked before anything is computed with them."""

from bptt_relax.io.relaxations import Relaxation, largest_forces, start_below
from bptt_relax.io.splits import Split, check_split, folds, leave_one_out, split

__all__ = [
    "Relaxation",
    "Split",
    "check_split",
    "folds",
    "largest_forces",
    "leave_one_out",
    "split",
    "start_below",
]
