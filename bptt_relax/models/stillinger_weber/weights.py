"""Stillinger-Weber's few numbers: those of the paper, or tuned ones in this package's own format."""

from bptt_relax._types import Params
from bptt_relax.models._contract import Family
from bptt_relax.potentials import Potential
from bptt_relax.potentials.classical import stillinger_weber
from bptt_relax.weights import own_format
from bptt_relax.weights.registry import Model
from bptt_relax.weights.weights_file import Weights


def build(weights: Weights, model: Model, origin: str) -> tuple[Potential, Params]:
    """The potential and its parameters.

    Raises:
        InputError: settings or arrays are those of another model.
    """
    del model
    potential = stillinger_weber()
    return potential, own_format.from_arrays(weights.arrays, potential, origin)


FAMILY = Family(own_format.convert, build, own_format.unload)
