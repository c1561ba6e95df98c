"""Small differentiable reductions and pytree helpers that everything above shares."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, PyTree, Scalar


def safe_norm(x: Array, axis: int = -1, keepdims: bool = False) -> Array:
    """Euclidean norm whose gradient at the zero vector is zero instead of NaN.

    Args:
        x: any shape.
        axis: the axis the norm is taken over.
        keepdims: keep that axis with length one.
    """
    squared = jnp.sum(x * x, axis=axis, keepdims=keepdims)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def safe_sqrt(x: Array) -> Array:
    """Square root of a non-negative number whose gradient at zero is zero instead of infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean over the first axis of the entries that ``mask`` (bool, the leading axis of ``x``) keeps; zero if none."""
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    # Chosen and not multiplied: zero times a NaN in the padding is NaN.
    return jnp.sum(jnp.where(mask, x, 0), axis=0) / jnp.maximum(jnp.sum(mask, axis=0), 1)


@full_matmul
def global_norm(tree: PyTree) -> Scalar:
    """Euclidean norm over all leaves, in their own precision."""
    # A plain 0.0 to start from: an array would turn the norm, and what it scales, into float64 under x64.
    return safe_sqrt(
        jnp.asarray(sum((jnp.vdot(leaf, leaf).real for leaf in jax.tree.leaves(tree)), start=0.0))
    )


def all_finite(tree: PyTree) -> Array:
    """True when no floating-point leaf holds a NaN or an infinity."""
    checks = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]
    return jnp.all(jnp.stack(checks)) if checks else jnp.asarray(True)


def where(condition: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Leafwise ``jnp.where`` with one scalar condition for the whole tree."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), on_true, on_false)


def cast(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    """Cast the floating-point leaves; integers and booleans stay as they are."""

    def convert(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(convert, tree)


def stack(trees: list[PyTree]) -> PyTree:
    """Stack equal-shaped pytrees along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def stack_on_host(trees: list[PyTree]) -> PyTree:
    """The same in numpy."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def on_host(tree: PyTree) -> PyTree:
    """The same pytree with its leaves in numpy."""
    return jax.tree.map(np.asarray, tree)


def shape_of(tree: PyTree) -> Hashable:
    """Structure, shapes and dtypes: pytrees for which these are equal share compiled programs."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


def take(tree: PyTree, index: int) -> PyTree:
    """Entry ``index`` of a stacked pytree."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def path_name(path: tuple) -> str:
    """One name for a leaf, whether its container is a NamedTuple, a dict or a list: its keys joined by slashes."""
    keys = (getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))) for key in path)
    return "/".join(str(key) for key in keys)
