"""Fine-tune machine-learning interatomic potentials by backpropagation through structural relaxation.

Names only: nothing is imported before it is used, and no JAX setting is ever changed.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bptt_relax import (
        adjoints,
        analysis,
        batches,
        datasets,
        distributed,
        io,
        losses,
        models,
        neighbors,
        outcomes,
        potentials,
        relax,
        systems,
        training,
        trees,
        units,
        unrolling,
    )
    from bptt_relax.ase_calculator import ASECalculator
    from bptt_relax.finetuning.calling import finetune
    from bptt_relax.neighbors import GraphSpec
    from bptt_relax.relax import Theta, relaxation
    from bptt_relax.relaxing.calling import relax_files
    from bptt_relax.systems import Pair, System
    from bptt_relax.unrolling import Unrolled, unroll

_MODULES = (
    "adjoints",
    "analysis",
    "batches",
    "datasets",
    "distributed",
    "io",
    "losses",
    "models",
    "neighbors",
    "outcomes",
    "potentials",
    "relax",
    "systems",
    "training",
    "trees",
    "units",
    "unrolling",
)
_NAMES = {
    "ASECalculator": "ase_calculator",
    "GraphSpec": "neighbors",
    "Pair": "systems",
    "System": "systems",
    "Theta": "relax",
    "Unrolled": "unrolling",
    "finetune": "finetuning.calling",
    "relax_files": "relaxing.calling",
    "relaxation": "relax",
    "unroll": "unrolling",
}

__all__ = [
    "ASECalculator",
    "GraphSpec",
    "Pair",
    "System",
    "Theta",
    "Unrolled",
    "adjoints",
    "analysis",
    "batches",
    "datasets",
    "distributed",
    "finetune",
    "io",
    "losses",
    "models",
    "neighbors",
    "outcomes",
    "potentials",
    "relax",
    "relax_files",
    "relaxation",
    "systems",
    "training",
    "trees",
    "units",
    "unroll",
    "unrolling",
]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"bptt_relax.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"bptt_relax.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'bptt_relax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
