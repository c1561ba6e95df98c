"""Weights of models that were trained here: parameters under their own paths, settings as a configuration says them."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Params
from bptt_relax.outcomes import InputError
from bptt_relax.potentials._contract import Potential

Config = TypeVar("Config", bound=NamedTuple)


def to_arrays(params: Params) -> dict[str, np.ndarray]:
    """Float32 arrays by path, as ``layer_0/norm/scale``."""
    return {
        "/".join(str(key.key) for key in path): np.asarray(leaf, np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def from_arrays(arrays: Mapping[str, np.ndarray], potential: Potential, origin: str) -> Params:
    """Parameters of a potential, in JAX's default float type: the inverse of `to_arrays`.

    Args:
        arrays: by path.
        potential: they must be those of; its ``init`` says which and of what shape.
        origin: what messages call them.

    Raises:
        InputError: a missing or unexpected array, one of another shape, or a value that isn't finite.
    """
    expected = jax.eval_shape(potential.init, jax.random.key(0))
    leaves, structure = jax.tree_util.tree_flatten_with_path(expected)
    shapes = {"/".join(str(key.key) for key in path): leaf.shape for path, leaf in leaves}
    if missing := sorted(shapes.keys() - arrays.keys()):
        raise InputError(
            f"{origin} lacks {missing[0]} and {len(missing) - 1} more arrays of {potential.name}"
        )
    if extra := sorted(arrays.keys() - shapes.keys()):
        raise InputError(f"{origin} has {extra[0]} and {len(extra) - 1} more arrays than {potential.name}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise InputError(
                f"{origin}: {name} has the shape {arrays[name].shape}, its settings say {shape}: save it again"
            )
        if not np.all(np.isfinite(arrays[name])):
            raise InputError(f"{origin}: {name} holds NaN or infinite values")
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[name], float) for name in shapes])


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
