"""A conformance suite that anybody can run on their own potential: a class for pytest.

from bptt_relax.conformance import PotentialConformance

class TestMine(PotentialConformance):
def make(self):
return potential, params
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bptt_relax.conformance.suite import PotentialConformance

__all__ = ["PotentialConformance"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Looked up on first use: the plugin is part of every pytest on a machine that has this package.
    return getattr(import_module("bptt_relax.conformance.suite"), name)
