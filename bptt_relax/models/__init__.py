"""Models people start from: families of networks, each a folder, and what one does with their weights.

A folder holds ``network.py`` (the potential), ``weights.py`` (the published file and its `Family`) and, where another
package has the model too, ``ask_original.py``. A new model is one row of `bptt_relax.weights.registry`; a new family is
one more folder, of the name that the rows give. Nothing of a family is imported before one of its models is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bptt_relax.models.base_models import BaseModel, base_model, own_model
    from bptt_relax.models.exporting import export
    from bptt_relax.models.pretrained import fetch, load, names, save, verify
    from bptt_relax.weights.params_file import load_params, save_params

__all__ = [
    "BaseModel",
    "base_model",
    "export",
    "fetch",
    "load",
    "load_params",
    "names",
    "own_model",
    "save",
    "save_params",
    "verify",
]

_LAZY = {
    "BaseModel": "models.base_models",
    "base_model": "models.base_models",
    "export": "models.exporting",
    "fetch": "models.pretrained",
    "load": "models.pretrained",
    "load_params": "weights.params_file",
    "names": "models.pretrained",
    "own_model": "models.base_models",
    "save": "models.pretrained",
    "save_params": "weights.params_file",
    "verify": "models.pretrained",
}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"bptt_relax.{_LAZY[name]}"), name)
