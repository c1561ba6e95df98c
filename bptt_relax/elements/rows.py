"""From atomic numbers to the rows of a model's tables; an element without a row is never taken for another."""

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Array


def rows(species: tuple[int, ...]) -> np.ndarray:
    """Atomic number -> row of the tables, int32; -1 for elements that have none, any row for padding.

    Args:
        species: atomic numbers, in the order of the rows.
    """
    # Of one type in either precision: JAX would make int64 of it where the process works in double.
    found = np.full(max(119, *species) + 1, -1, np.int32)
    found[list(species)] = np.arange(len(species))
    found[0] = 0
    return found


def one_hot(row: Array, size: int, dtype: jnp.dtype) -> Array:
    """Indicator of each atom's row (N, size); NaN for an element that has none."""
    return jnp.where((row < 0)[:, None], jnp.nan, jax.nn.one_hot(row, size, dtype=dtype))
