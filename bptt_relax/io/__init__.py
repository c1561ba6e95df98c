"""Structures and relaxations from and to files, checked before anything is computed with them.

Names only: nothing is imported before it is used, because the command line needs the options alone.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bptt_relax.io.atoms import to_atoms, to_structure
    from bptt_relax.io.calculation import Calculation
    from bptt_relax.io.checks import check
    from bptt_relax.io.options import ReadOptions
    from bptt_relax.io.pairs import read_pairs, to_pairs
    from bptt_relax.io.problems import Problem, describe, safe_name, write_rejected
    from bptt_relax.io.reading import Inspection, inspect, read_pair, read_relaxations
    from bptt_relax.io.relaxations import Relaxation, at_relaxed_cell, largest_forces, start_below
    from bptt_relax.io.splits import Split, check_split, folds, leave_one_out, split
    from bptt_relax.io.structures import Found, StructureInspection, inspect_structures
    from bptt_relax.io.writing import write_relaxations

_MODULES = {
    "atoms": ("to_atoms", "to_structure"),
    "calculation": ("Calculation",),
    "checks": ("check",),
    "options": ("ReadOptions",),
    "pairs": ("read_pairs", "to_pairs"),
    "problems": ("Problem", "describe", "safe_name", "write_rejected"),
    "reading": ("Inspection", "inspect", "read_pair", "read_relaxations"),
    "relaxations": ("Relaxation", "at_relaxed_cell", "largest_forces", "start_below"),
    "splits": ("Split", "check_split", "folds", "leave_one_out", "split"),
    "structures": ("Found", "StructureInspection", "inspect_structures"),
    "writing": ("write_relaxations",),
}
_NAMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Calculation",
    "Found",
    "Inspection",
    "Problem",
    "ReadOptions",
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


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module 'bptt_relax.io' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bptt_relax.io.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
