"""ADAPT's weights: in this package's own format."""

from bptt_relax._types import Params
from bptt_relax.models._contract import Family
from bptt_relax.models.adapt import network
from bptt_relax.potentials import Potential
from bptt_relax.weights import own_format
from bptt_relax.weights.registry import Model
from bptt_relax.weights.weights_file import Weights


def build(weights: Weights, model: Model, origin: str) -> tuple[Potential, Params]:
    """The potential and its parameters.

    Raises:
        InputError: settings or arrays are those of another model.
    """
    config = own_format.read_config(network.Config(), weights.arguments, origin)
    potential = network.build(config, elements=model.elements, name=model.name)
    return potential, own_format.from_arrays(weights.arrays, potential, origin)


FAMILY = Family(own_format.convert, build, own_format.unload)
