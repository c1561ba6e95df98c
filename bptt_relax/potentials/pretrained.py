"""Load pretrained and fine-tuned potentials by name or by file, and save them.

Weights are looked for in the cache, then in an installed package, and fetched once otherwise. Whatever is found
is compared with the published sha256 before it is read, read without running code, and kept in the cache as
safetensors: a second run needs no network.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bptt_relax._types import Params
from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.potentials import checkpoint_zip, sources, weights_file
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials._trainable import trainable
from bptt_relax.potentials.registry import MODELS, Model
from bptt_relax.potentials.weights_file import Weights, cache_folder

__all__ = ["MODELS", "cache_folder", "load", "models", "save", "trainable"]


class Family(NamedTuple):
    """What one implementation does with weights.

    Attributes:
        convert: published file -> weights.
        build: weights -> potential and parameters.
        unload: parameters, model settings -> arrays under their published names.
    """

    convert: Callable[[sources.Published, Model], Weights]
    build: Callable[[Weights, Model], tuple[Potential, Params]]
    unload: Callable[[Params, Weights], Weights]


def models() -> tuple[str, ...]:
    """Names that `load` knows."""
    return tuple(MODELS)


def load(name_or_path: str | Path, *, source: str | Path | None = None) -> tuple[Potential, Params]:
    """A potential and its parameters, in JAX's default float type.

    Args:
        name_or_path: a name from `models`, or a file: .safetensors that `save` wrote, a published checkpoint, or
            a wheel that holds exactly one model of `models`.
        source: where the published weights of a name are on this machine (wheel or checkpoint); cache, installed
            package and network otherwise.

    Raises:
        InputError: unknown name, or no such file.
        ModelError: the weights can't be had, or are not what they should be.
    """
    model = MODELS.get(str(name_or_path))
    if model is None:
        weights = _read_file(Path(name_or_path))
        model = MODELS[weights.model]
        return _family(model).build(weights, model)
    if model.source is None:
        return _stillinger_weber()
    weights = None if source is not None else weights_file.read_cached(model.name)
    if weights is None:
        weights = _convert(model, sources.find(model, source))
    return _family(model).build(weights, model)


def save(path: str | Path, name_or_path: str | Path, params: Params) -> None:
    """Write fine-tuned parameters to a .safetensors file that `load` takes.

    Args:
        path: where; replaced if it exists.
        name_or_path: what `load` was given to make the potential they belong to.
        params: of that potential.

    Raises:
        InputError: unknown name, no such file, a model that has no file format, or not a .safetensors path.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"weights are saved as .safetensors, not {path.name}: rename it")
    model = MODELS.get(str(name_or_path))
    if model is not None and model.source is None:
        raise InputError(f"{model.name} has no file format: keep its {len(params)} numbers yourself")
    if model is None:
        weights = _read_file(Path(name_or_path))
        model = MODELS[weights.model]
    else:
        weights = weights_file.read_cached(model.name) or _convert(model, sources.find(model))
    weights_file.write(path, _family(model).unload(params, weights))


def _convert(model: Model, published: sources.Published) -> Weights:
    weights = _family(model).convert(published, model)
    manifest = {
        "model": model.name,
        "origin": published.origin.rsplit("/", 1)[-1],
        "origin_sha256": model.sha256,
        "licence": model.licence,
        "citation": model.citation,
    }
    weights_file.write_cache(weights, manifest, published.licence)
    return weights


def _read_file(path: Path) -> Weights:
    """Weights from a file that the user named."""
    if not path.exists():
        raise InputError(f"no model and no file called {path}; models: {', '.join(MODELS)}")
    if path.suffix == ".safetensors":
        weights = weights_file.read(path)
        if weights.model not in MODELS:
            raise ModelError(
                f"{path} belongs to the model {weights.model!r}, which this version doesn't know"
            )
        return weights
    data = sources.read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    for model in MODELS.values():
        if model.sha256 == found:
            return _convert(model, sources.from_path(model, path))
    if path.suffix == ".whl":
        raise InputError(
            f"{path} may hold several models: name one, as in load('chgnet-0.3.0', source='{path.name}')"
        )
    checkpoint_zip.refuse_obvious(data, path)
    raise ModelError(
        f"{path} (sha256 {found[:12]}...) is none of the published checkpoints this package knows: "
        "load the model by name and save fine-tuned weights with potentials.save"
    )


def _family(model: Model) -> Family:
    if model.family == "chgnet":
        return Family(_convert_chgnet, _build_chgnet, _unload_chgnet)
    raise ModelError(f"{model.name} has no file format")


def _stillinger_weber() -> tuple[Potential, Params]:
    from bptt_relax.potentials.classical import stillinger_weber  # imports jax-md, which takes seconds

    potential = stillinger_weber()
    return potential, potential.init(None)


def _convert_chgnet(published: sources.Published, model: Model) -> Weights:
    content = checkpoint_zip.read(published.data, published.origin)
    try:
        arrays, arguments = content["model"]["state_dict"], content["model"]["model_args"]
        arguments = json.loads(json.dumps(arguments))
    except (KeyError, TypeError) as error:
        raise ModelError(f"{published.origin} is not a CHGNet checkpoint (no {error})") from error
    return Weights(model.name, arguments, dict(arrays))


def _build_chgnet(weights: Weights, model: Model) -> tuple[Potential, Params]:
    from bptt_relax.potentials import chgnet, chgnet_weights

    config = chgnet_weights.read_config(weights.arguments, weights.arrays, weights.model)
    params = chgnet_weights.from_published(weights.arrays, config, weights.model)
    return chgnet.build(config, elements=model.elements, name=model.name), params


def _unload_chgnet(params: Params, weights: Weights) -> Weights:
    from bptt_relax.potentials import chgnet_weights

    config = chgnet_weights.read_config(weights.arguments, weights.arrays, weights.model)
    return weights._replace(arrays=chgnet_weights.to_published(params, config))
