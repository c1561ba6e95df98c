"""Potentials: the contract, how to build one, and jax-md's classical ones on our edges.

What needs jax-md is looked up on first use: importing it takes seconds, and neither a list of models nor a command
line needs it. Pretrained potentials come from `bptt_relax.models`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from bptt_relax.potentials._contract import ApplyFn, InitFn, Potential, Prediction
from bptt_relax.potentials._trainable import trainable
from bptt_relax.potentials.conservative import EnergyFn, conservative
from bptt_relax.potentials.direct import ForcesFn, direct

if TYPE_CHECKING:
    from bptt_relax.potentials.classical import stillinger_weber

__all__ = [
    "ApplyFn",
    "EnergyFn",
    "ForcesFn",
    "InitFn",
    "Potential",
    "Prediction",
    "conservative",
    "direct",
    "stillinger_weber",
    "trainable",
]


def __getattr__(name: str):
    if name == "stillinger_weber":
        return import_module("bptt_relax.potentials.classical").stillinger_weber
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
