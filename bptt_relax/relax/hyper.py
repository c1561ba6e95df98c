"""Learnable hyperparameters are stored unconstrained and transformed where they are used."""

import jax
import jax.numpy as jnp

from bptt_relax._types import Array, Scalar


def from_positive(value: float, name: str) -> Array:
    """Store a positive number as its logarithm.

    Raises:
        ValueError: the value is not positive.
    """
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return jnp.asarray(jnp.log(value), float)


def to_positive(stored: Array) -> Scalar:
    """Inverse of `from_positive`."""
    return jnp.exp(stored)


def from_fraction(value: float, name: str) -> Array:
    """Store a number strictly between 0 and 1 as its logit.

    Raises:
        ValueError: the value is outside (0, 1).
    """
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
    return jnp.asarray(jnp.log(value) - jnp.log1p(-value), float)


def to_fraction(stored: Array) -> Scalar:
    """Inverse of `from_fraction`."""
    return jax.nn.sigmoid(stored)
