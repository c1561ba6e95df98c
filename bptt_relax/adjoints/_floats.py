"""The part of a state that carries gradients, and the rest."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Array, PyTree

Rest = tuple[Any, list[Array | None]]


def split(tree: PyTree) -> tuple[list[Array], Rest]:
    """Separate the floating-point leaves, which carry gradients, from the rest."""
    leaves, structure = jax.tree.flatten(tree)
    inexact = [is_inexact(leaf) for leaf in leaves]
    floats = [leaf for leaf, is_float in zip(leaves, inexact, strict=True) if is_float]
    rest = [None if is_float else leaf for leaf, is_float in zip(leaves, inexact, strict=True)]
    return floats, (structure, rest)


def join(floats: list[Array], rest: Rest) -> PyTree:
    """Inverse of `split`."""
    structure, others = rest
    remaining = iter(floats)
    return jax.tree.unflatten(structure, [next(remaining) if leaf is None else leaf for leaf in others])


def is_inexact(leaf: Array) -> bool:
    """Whether a leaf is of a floating-point type."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def zero_cotangents(tree: PyTree) -> PyTree:
    """Zeros in the form that `jax.custom_vjp` wants them: float0 for integers and booleans."""
    return jax.tree.map(
        lambda leaf: (
            jnp.zeros_like(leaf) if is_inexact(leaf) else np.zeros(np.shape(leaf), jax.dtypes.float0)
        ),
        tree,
    )


def scale_cotangents(factor: Array, cotangents: PyTree) -> PyTree:
    """Multiply the floating-point cotangents, leaving float0 alone."""
    return jax.tree.map(
        lambda c: c if c.dtype == jax.dtypes.float0 else factor.astype(c.dtype) * c, cotangents
    )
