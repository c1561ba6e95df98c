"""What each implementation does with weights: read the published file, build the potential, write it back."""

import json
from collections.abc import Callable
from typing import NamedTuple

from bptt_relax._types import Params
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import checkpoint_zip, own_format, weights_file
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.published import Published
from bptt_relax.potentials.registry import Model
from bptt_relax.potentials.weights_file import Weights


class Family(NamedTuple):
    """What one implementation does with weights.

    Attributes:
        convert: published file -> weights.
        build: weights, model, what messages call the file -> potential and parameters.
        unload: parameters, weights they were built from -> weights under their published names.
        encode: weights -> a file in the format of the original package; None where there is no such package.
        suffix: how the name of such a file ends.
    """

    convert: Callable[[Published, Model], Weights]
    build: Callable[[Weights, Model, str], tuple[Potential, Params]]
    unload: Callable[[Params, Weights], Weights]
    encode: Callable[[Weights], bytes] | None = None
    suffix: str = ""


def family(model: Model) -> Family:
    """The family of a model that has weights."""
    return FAMILIES[model.family]


def _convert_chgnet(published: Published, model: Model) -> Weights:
    content = checkpoint_zip.read(published.data, published.origin)
    try:
        arrays, arguments = content["model"]["state_dict"], content["model"]["model_args"]
        arguments = json.loads(json.dumps(arguments))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{published.origin} is not a CHGNet checkpoint (no {error}): check the path"
        ) from error
    return Weights(model.name, arguments, dict(arrays))


def _build_chgnet(weights: Weights, model: Model, origin: str) -> tuple[Potential, Params]:
    from bptt_relax.potentials import chgnet, chgnet_weights

    config = chgnet_weights.read_config(weights.arguments, weights.arrays, origin)
    params = chgnet_weights.from_published(weights.arrays, config, origin)
    return chgnet.build(config, elements=model.elements, name=model.name), params


def _unload_chgnet(params: Params, weights: Weights) -> Weights:
    from bptt_relax.potentials import chgnet_weights

    config = chgnet_weights.read_config(weights.arguments, weights.arrays, weights.model)
    return weights._replace(arrays=chgnet_weights.to_published(params, config))


def _encode_chgnet(weights: Weights) -> bytes:
    # Sorted, so that the same weights make the same file wherever they were kept.
    arrays = dict(sorted(weights.arrays.items()))
    return checkpoint_zip.write({"model": {"model_args": weights.arguments, "state_dict": arrays}})


def _convert_nequix(published: Published, model: Model) -> Weights:
    from bptt_relax.potentials import nequix_weights

    return Weights(model.name, *nequix_weights.read(published.data, published.origin))


def _build_nequix(weights: Weights, model: Model, origin: str) -> tuple[Potential, Params]:
    from bptt_relax.potentials import nequix, nequix_weights

    config = nequix_weights.read_config(weights.arguments, origin)
    params = nequix_weights.from_published(weights.arrays, config, origin)
    return nequix.build(config, elements=model.elements, name=model.name), params


def _unload_nequix(params: Params, weights: Weights) -> Weights:
    from bptt_relax.potentials import nequix_weights

    config = nequix_weights.read_config(weights.arguments, weights.model)
    return weights._replace(arrays=nequix_weights.to_published(params, config))


def _encode_nequix(weights: Weights) -> bytes:
    from bptt_relax.potentials import nequix_weights

    return nequix_weights.write(weights.arguments, weights.arrays)


def _convert_own(published: Published, model: Model) -> Weights:
    weights = weights_file.decode(published.data, published.origin)
    if weights.model != model.name:
        raise InputError(
            f"{published.origin} belongs to {weights.model!r}, not to {model.name}: check the path"
        )
    return weights


def _unload_own(params: Params, weights: Weights) -> Weights:
    return weights._replace(arrays=own_format.to_arrays(params))


def _build_adapt(weights: Weights, model: Model, origin: str) -> tuple[Potential, Params]:
    from bptt_relax.potentials import adapt

    config = own_format.read_config(adapt.Config(), weights.arguments, origin)
    potential = adapt.build(config, elements=model.elements, name=model.name)
    return potential, own_format.from_arrays(weights.arrays, potential, origin)


def _build_nequip(weights: Weights, model: Model, origin: str) -> tuple[Potential, Params]:
    from bptt_relax.potentials import nequip

    config = own_format.read_config(nequip.Config(), weights.arguments, origin)
    potential = nequip.build(config, elements=model.elements, name=model.name, side_by_side=True)
    return potential, own_format.from_arrays(weights.arrays, potential, origin)


def _build_classical(weights: Weights, model: Model, origin: str) -> tuple[Potential, Params]:
    from bptt_relax.potentials.classical import stillinger_weber  # imports jax-md, which takes seconds

    potential = stillinger_weber()
    return potential, own_format.from_arrays(weights.arrays, potential, origin)


FAMILIES: dict[str, Family] = {
    "chgnet": Family(_convert_chgnet, _build_chgnet, _unload_chgnet, _encode_chgnet, ".pth.tar"),
    "adapt": Family(_convert_own, _build_adapt, _unload_own),
    "nequip": Family(_convert_own, _build_nequip, _unload_own),
    "nequix": Family(_convert_nequix, _build_nequix, _unload_nequix, _encode_nequix, ".nqx"),
    "stillinger-weber": Family(_convert_own, _build_classical, _unload_own),
}
