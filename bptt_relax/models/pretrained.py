"""Load pretrained and fine-tuned potentials by name or by file, and save them.

Weights that come with this package are there at once. Others are looked for in the cache, then in an installed
package, and fetched once otherwise. Whatever is found is compared with the published sha256 before it is read, read
without running code, and kept in the cache as safetensors: a second run needs no network.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from bptt_relax._types import Params
from bptt_relax.models._contract import family
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential
from bptt_relax.weights import cache, own_format, params_file, published, sources, weights_file
from bptt_relax.weights.registry import MODELS, Bundled, Model
from bptt_relax.weights.weights_file import Weights

__all__ = [
    "MODELS",
    "Verdict",
    "about",
    "cached",
    "describe",
    "fetch",
    "find",
    "load",
    "names",
    "save",
    "verify",
]


class Verdict(NamedTuple):
    """What `verify` found in the cache for one model.

    Attributes:
        model: its name.
        passed: the weights are there, whole, and make a potential.
        sentence: the same in words, with the fix where one is needed.
    """

    model: str
    passed: bool
    sentence: str


def names() -> tuple[str, ...]:
    """Names that `load` knows."""
    return tuple(MODELS)


def cached() -> tuple[str, ...]:
    """Names of the models whose weights are at hand, whole or damaged: in the cache, or with this package."""
    return tuple(
        name
        for name, model in MODELS.items()
        if isinstance(model.source, Bundled) or cache.entry(model).is_dir()
    )


def describe(model: Model) -> str:
    """A line of text: elements, cutoff, functional, licence, size and citation of a model."""
    size = f"{model.size / 1e6:.1f} MB" if model.size else "no file"
    return (
        f"{model.name:<16} {len(model.elements):>3} elements  cutoff {model.cutoff:.2f} A  {size:>7}  "
        f"{model.licence:<17}  {model.citation:<29}  {model.functional}"
    )


def load(name_or_path: str | Path, *, source: str | Path | None = None) -> tuple[Potential, Params]:
    """A potential and its parameters, in JAX's default float type.

    Args:
        name_or_path: a name from `names`, or a file: .safetensors that `save` wrote, a published file of
            weights, or a wheel that holds exactly one of these models.
        source: where the published weights of a name are on this machine (the file, a wheel that holds it, or a
            folder with either); cache, installed package and network otherwise.

    Raises:
        InputError: unknown name, no such file, or a file that is not what it should be, in the cache too.
        ModelError: the weights can't be fetched.
    """
    model = MODELS.get(str(name_or_path))
    if model is None:
        weights, model = _read_file(Path(name_or_path))
        return family(model).build(weights, model, str(name_or_path))
    if model.source is None:
        return _stillinger_weber()
    weights = None if source is not None else _at_hand(model)
    if weights is None:
        weights = _convert(model, sources.find(model, source))
    return family(model).build(weights, model, model.name)


def fetch(name: str, *, source: str | Path | None = None) -> Path:
    """Put the weights of a model into the cache anew, whatever is there; those of this package need none.

    Args:
        name: of `names`.
        source: as for `load`.

    Returns:
        the folder they are in.

    Raises:
        InputError: unknown name, or ``source`` is not the published file.
        ModelError: the weights can't be fetched.
    """
    model = _with_weights(name)
    _convert(model, sources.find(model, source))
    if isinstance(model.source, Bundled):
        return sources.BUNDLED
    if not cache.entry(model).is_dir():
        raise InputError(
            f"can't write to the cache {cache.folder()}: set BPTT_RELAX_CACHE to a folder that can be written"
        )
    return cache.entry(model)


def verify(name: str) -> Verdict:
    """Check the weights of a model in the cache or in this package: hash, shapes, that every number is finite.

    Args:
        name: of `names`.

    Raises:
        InputError: unknown name.
    """
    model = _with_weights(name)
    place = sources.BUNDLED if isinstance(model.source, Bundled) else cache.entry(model)
    try:
        weights = _at_hand(model)
        if weights is None:
            return Verdict(name, False, f"not in the cache: bptt-relax models fetch {name}")
        family(model).build(weights, model, str(place))
    except InputError as error:
        return Verdict(name, False, str(error))
    count = sum(array.size for array in weights.arrays.values())
    return Verdict(name, True, f"{count} parameters as published, in {place}")


def save(path: str | Path, name_or_path: str | Path, params: Params) -> None:
    """Write fine-tuned parameters to a .safetensors file that `load` takes.

    Args:
        path: where; replaced if it exists.
        name_or_path: what `load` was given to make the potential they belong to.
        params: of that potential.

    Raises:
        InputError: unknown name, no such file, not a .safetensors path, or a parameter that isn't finite.
    """
    path = Path(path)
    params_file.require_safetensors(path)
    weights, model = find(name_or_path)
    weights_file.write(path, family(model).unload(params, weights))


def about(name_or_path: str | Path) -> Model:
    """The registry entry of a model, or of the model whose weights a file holds.

    Raises:
        InputError: unknown name, or no such file.
    """
    return MODELS.get(str(name_or_path)) or _read_file(Path(name_or_path))[1]


def find(name_or_path: str | Path) -> tuple[Weights, Model]:
    """The weights that a name or a file stands for, under their published names, and the model they belong to.

    Raises:
        InputError: unknown name, or no such file.
        ModelError: the weights can't be fetched.
    """
    model = MODELS.get(str(name_or_path))
    if model is None:
        return _read_file(Path(name_or_path))
    if model.source is None:
        return Weights(model.name, {}, own_format.to_arrays(_stillinger_weber()[1])), model
    return _at_hand(model) or _convert(model, sources.find(model)), model


def _at_hand(model: Model) -> Weights | None:
    """Weights from this package or from the cache; None where they have to be found first."""
    if isinstance(model.source, Bundled):
        return _convert(model, sources.find(model))
    return cache.read(model)


def _with_weights(name: str) -> Model:
    model = MODELS.get(name)
    if model is None:
        raise InputError(f"no model {name!r}; there are {', '.join(MODELS)}")
    if model.source is None:
        raise InputError(f"{name} has no file of weights: its few numbers are in the package")
    return model


def _convert(model: Model, found: published.Published) -> Weights:
    weights = family(model).convert(found, model)
    if not isinstance(model.source, Bundled):
        cache.write(model, weights, found)
    return weights


def _read_file(path: Path) -> tuple[Weights, Model]:
    """Weights from a file that the user named, and the model they belong to."""
    if not path.exists():
        raise InputError(f"no model and no file called {path}; models: {', '.join(MODELS)}")
    if path.suffix == ".safetensors":
        weights = weights_file.read(path)
        if weights.model not in MODELS:
            raise InputError(
                f"{path} belongs to the model {weights.model!r}, which this version doesn't know: update it"
            )
        return weights, MODELS[weights.model]
    data = published.read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    for model in MODELS.values():
        if model.sha256 == found:
            return _convert(model, sources.from_path(model, path)), model
    if path.suffix == ".whl":
        raise InputError(
            f"{path} may hold several models: name one, as in load('chgnet-0.3.0', source='{path.name}')"
        )
    published.refuse_disguised(data, path)
    raise InputError(
        f"{path} (sha256 {found[:12]}...) is none of the published files this package knows: "
        "load the model by name and save fine-tuned weights with models.save"
    )


def _stillinger_weber() -> tuple[Potential, Params]:
    from bptt_relax.potentials.classical import stillinger_weber  # imports jax-md, which takes seconds

    potential = stillinger_weber()
    return potential, potential.init(None)
