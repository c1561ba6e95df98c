"""Potentials: the contract, how to build one, and the ones that come with the package.

What needs jax-md or weights is looked up on first use: importing jax-md takes seconds, and neither a list of
models nor a command line needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from bptt_relax.potentials._contract import ApplyFn, InitFn, Potential, Prediction
from bptt_relax.potentials._trainable import trainable
from bptt_relax.potentials.conservative import EnergyFn, conservative
from bptt_relax.potentials.direct import ForcesFn, direct

if TYPE_CHECKING:
    from bptt_relax.potentials.classical import stillinger_weber
    from bptt_relax.potentials.exporting import export
    from bptt_relax.potentials.pretrained import fetch, load, models, save, verify

__all__ = [
    "ApplyFn",
    "EnergyFn",
    "ForcesFn",
    "InitFn",
    "Potential",
    "Prediction",
    "conservative",
    "direct",
    "export",
    "fetch",
    "load",
    "models",
    "save",
    "stillinger_weber",
    "trainable",
    "verify",
]

_LAZY = {
    "export": "exporting",
    "fetch": "pretrained",
    "load": "pretrained",
    "models": "pretrained",
    "save": "pretrained",
    "stillinger_weber": "classical",
    "verify": "pretrained",
}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
