"""What fine-tuning and relaxing start from: a model of the registry, a file, or a potential of the user's own."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Params
from bptt_relax.models import pretrained
from bptt_relax.potentials import Potential
from bptt_relax.weights import own_format, params_file
from bptt_relax.weights.registry import Model


class BaseModel(NamedTuple):
    """A potential with parameters, where they come from, and how tuned ones are kept.

    Attributes:
        name: what settings, messages and results call it: its name in the registry, a file, or the user's word.
        potential: its functions.
        params: its parameters.
        about: licence, citation and the like, as the registry has them; empty where not known.
        save: (path, tuned parameters) -> a .safetensors file.
        load: such a file -> parameters.
    """

    name: str
    potential: Potential
    params: Params
    about: Model
    save: Callable[[Path, Params], None]
    load: Callable[[Path], Params]

    @property
    def is_own(self) -> bool:
        """Whether it is the user's, and no model of the registry, which has been tested."""
        return not self.about.family

    @property
    def sha256(self) -> str:
        """Of the parameters with their paths, in single precision: the same under any setting of JAX."""
        digest = hashlib.sha256()
        for name, array in sorted(own_format.to_arrays(self.params).items()):
            digest.update(name.encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


Given = str | Path | tuple[Potential, Params] | BaseModel
"""What users may give as a base model."""


def base_model(given: Given) -> BaseModel:
    """The base model that a name, a file or a pair stands for.

    Args:
        given: as for `pretrained.load`; ``(potential, params)``; or a base model.

    Raises:
        InputError: unknown name, no such file, a file that is not what it should be.
        ModelError: the weights can't be fetched.
        TypeError: something else.
        ValueError: as for `own_model`.
    """
    if isinstance(given, BaseModel):
        return given
    if isinstance(given, str | Path):
        return _registered(str(given))
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Potential):
        return own_model(*given)
    raise TypeError(
        f"a base model is a name, a file of weights or (potential, params), not {type(given).__name__}: "
        "wrap functions and modules with potentials.conservative or an adapter first"
    )


def own_model(
    potential: Potential,
    params: Params,
    *,
    name: str = "",
    licence: str = "",
    functional: str = "",
    citation: str = "",
    test_errors: tuple[float, float] | None = None,
) -> BaseModel:
    """A base model from a potential that no registry knows.

    What is not said here is not known, and the model card of what is tuned from it says so.

    Args:
        potential: any, an adapted one too.
        params: its parameters.
        name: what results call it; that of the potential when not given.
        licence: of the parameters.
        functional: density functional of its training data.
        citation: DOI or another reference.
        test_errors: its mean absolute errors of energies (eV/atom) and forces (eV/angstrom), by which forgetting is
            judged.

    Raises:
        ValueError: a parameter is no floating-point number, or not finite, or there is none.
    """
    name = name or potential.name
    params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params)
    leaves = own_format.by_path(params)
    if not leaves:
        raise ValueError(f"params of {name} hold no array: there is nothing to train")
    for path, leaf in leaves.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{path} in params of {name} is {leaf.dtype}: keep what does not train out of params"
            )
        if not bool(jnp.all(jnp.isfinite(leaf))):
            raise ValueError(f"{path} in params of {name} holds NaN or infinite values")
    about = Model(
        name=name,
        family="",
        source=None,
        sha256="",
        size=0,
        licence=licence,
        notice="",
        elements=potential.elements,
        cutoff=potential.graph.cutoff,
        functional=functional,
        citation=citation,
        test_errors=test_errors,
    )
    made = BaseModel(
        name,
        potential,
        params,
        about,
        save=lambda path, tuned: params_file.save_params(path, tuned, name=name),
        load=lambda path: params_file.load_params(path, like=params),
    )
    return made._replace(about=about._replace(sha256=made.sha256))


def _registered(name: str) -> BaseModel:
    potential, params = pretrained.load(name)
    return BaseModel(
        name,
        potential,
        params,
        pretrained.about(name),
        save=lambda path, tuned: pretrained.save(path, name, tuned),
        load=lambda path: pretrained.load(path)[1],
    )
