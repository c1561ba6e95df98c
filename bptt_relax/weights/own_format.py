"""Weights of models that were trained here: parameters under their own paths, settings as a configuration says them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Params
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential
from bptt_relax.trees import path_name
from bptt_relax.weights import weights_file
from bptt_relax.weights.published import Published
from bptt_relax.weights.registry import Model
from bptt_relax.weights.weights_file import Weights

Config = TypeVar("Config", bound=NamedTuple)


def convert(published: Published, model: Model) -> Weights:
    """The weights in a file of this package.

    Raises:
        InputError: no such file, or one of another model.
    """
    weights = weights_file.decode(published.data, published.origin)
    if weights.model != model.name:
        raise InputError(
            f"{published.origin} belongs to {weights.model!r}, not to {model.name}: check the path"
        )
    return weights


def unload(params: Params, weights: Weights) -> Weights:
    """The same weights with other parameters."""
    return weights._replace(arrays=to_arrays(params))


def to_arrays(params: Params) -> dict[str, np.ndarray]:
    """Float32 arrays by path, as ``layer_0/norm/scale``."""
    return {name: np.asarray(leaf, np.float32) for name, leaf in by_path(params).items()}


def from_arrays(arrays: Mapping[str, np.ndarray], potential: Potential, origin: str) -> Params:
    """Parameters of a potential, in JAX's default float type: the inverse of `to_arrays`.

    Args:
        arrays: by path.
        potential: they must be those of; its ``init`` says which and of what shape.
        origin: what messages call them.

    Raises:
        InputError: as `fill`.
    """
    return fill(jax.eval_shape(potential.init, jax.random.key(0)), arrays, potential.name, origin)


def by_path(params: Params) -> dict[str, Any]:
    """Leaves by path.

    Raises:
        InputError: two leaves have the same path.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = {path_name(path): leaf for path, leaf in leaves}
    if len(found) < len(leaves):
        counts = Counter(path_name(path) for path, _ in leaves)
        name = next(name for name, count in counts.items() if count > 1)
        raise InputError(f"two parameters are called {name}: leave slashes out of the keys of params")
    return found


def fill(like: Params, arrays: Mapping[str, np.ndarray], what: str, origin: str) -> Params:
    """A pytree like another one, with these arrays in its float types.

    Args:
        like: arrays, or what has their shape and dtype.
        arrays: by path.
        what: what messages call ``like``.
        origin: what messages call the arrays.

    Raises:
        InputError: a missing or unexpected array, one of another shape, or a value that isn't finite.
    """
    expected = by_path(like)
    if missing := sorted(expected.keys() - arrays.keys()):
        raise InputError(f"{origin} lacks {_some(missing)} of {what}")
    if extra := sorted(arrays.keys() - expected.keys()):
        raise InputError(f"{origin} has {_some(extra)} that {what} has not")
    for name, leaf in expected.items():
        if arrays[name].shape != jnp.shape(leaf):
            raise InputError(
                f"{origin}: {name} has the shape {arrays[name].shape}, and {jnp.shape(leaf)} in {what}: it "
                "belongs to other settings"
            )
        if not np.all(np.isfinite(arrays[name])):
            raise InputError(f"{origin}: {name} holds NaN or infinite values")
    return jax.tree.unflatten(
        jax.tree.structure(like),
        [jnp.asarray(arrays[name], jnp.result_type(leaf)) for name, leaf in expected.items()],
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more arrays" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def read_config(like: Config, arguments: Mapping[str, Any], origin: str) -> Config:
    """A configuration from the settings in a file, exactly as many as it has and of the same types.

    Args:
        like: any configuration of this kind.
        arguments: setting -> number or list of numbers.
        origin: what messages call the file.

    Raises:
        InputError: a setting is missing, unknown or of another type.
    """
    known = like._asdict()
    if problems := sorted(known.keys() ^ arguments.keys()):
        what = "lacks" if problems[0] in known else "has the unknown"
        raise InputError(f"{origin} {what} setting {problems[0]!r}: it belongs to another version or model")
    found = {}
    for name, example in known.items():
        value = tuple(arguments[name]) if isinstance(example, tuple) else arguments[name]
        items, kind = (value, type(example[0])) if isinstance(example, tuple) else ((value,), type(example))
        if any(isinstance(x, bool) != (kind is bool) or not isinstance(x, kind | int) for x in items):
            raise InputError(f"{origin} has {name}={arguments[name]!r}, which is no {kind.__name__}")
        found[name] = value
    return like._replace(**found)
