"""Structures and relaxations from and to files, checked before anything is computed with them."""

from bptt_relax.io.atoms import to_atoms, to_structure
from bptt_relax.io.checks import Limits, check
from bptt_relax.io.pairs import at_relaxed_cell, read_pairs, to_pairs
from bptt_relax.io.problems import Problem, describe, safe_name, write_rejected
from bptt_relax.io.reading import Inspection, inspect, read_pair, read_relaxations
from bptt_relax.io.relaxations import Relaxation, largest_forces, start_below
from bptt_relax.io.splits import Split, check_split, folds, leave_one_out, split
from bptt_relax.io.structures import Found, StructureInspection, inspect_structures
from bptt_relax.io.writing import write_relaxations

__all__ = [
    "Found",
    "Inspection",
    "Limits",
    "Problem",
    "Relaxation",
    "Split",
    "StructureInspection",
    "at_relaxed_cell",
    "check",
    "check_split",
    "describe",
    "folds",
    "inspect",
    "inspect_structures",
    "largest_forces",
    "leave_one_out",
    "read_pair",
    "read_pairs",
    "read_relaxations",
    "safe_name",
    "split",
    "start_below",
    "to_atoms",
    "to_pairs",
    "to_structure",
    "write_rejected",
    "write_relaxations",
]
