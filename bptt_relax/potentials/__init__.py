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
    from bptt_relax.potentials.base_models import BaseModel, base_model, own_model
    from bptt_relax.potentials.classical import stillinger_weber
    from bptt_relax.potentials.exporting import export
    from bptt_relax.potentials.params_file import load_params, save_params
    from bptt_relax.potentials.pretrained import fetch, load, models, save, verify

__all__ = [
    "ApplyFn",
    "BaseModel",
    "EnergyFn",
    "ForcesFn",
    "InitFn",
    "Potential",
    "Prediction",
    "base_model",
    "conservative",
    "direct",
    "export",
    "fetch",
    "load",
    "load_params",
    "models",
    "own_model",
    "save",
    "save_params",
    "stillinger_weber",
    "trainable",
    "verify",
]

_LAZY = {
    "BaseModel": "base_models",
    "base_model": "base_models",
    "export": "exporting",
    "fetch": "pretrained",
    "load": "pretrained",
    "load_params": "params_file",
    "models": "pretrained",
    "own_model": "base_models",
    "save": "pretrained",
    "save_params": "params_file",
    "stillinger_weber": "classical",
    "verify": "pretrained",
}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
