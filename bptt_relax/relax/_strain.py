"""Which deformations of a cell are allowed: linear subspaces of the logarithm of the deformation gradient."""

from collections.abc import Callable, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Array, Cell

Strain = (
    Literal["full", "hydrostatic", "fixed_volume"] | Sequence[bool] | Sequence[Sequence[bool]] | np.ndarray
)

ProjectFn = Callable[[Array, Array], Array]
"""(L, span) -> the nearest allowed L: an orthogonal projection of (3, 3) matrices."""


def projection(strain: Strain) -> ProjectFn:
    """How to project onto the allowed deformations.

    Args:
        strain: "full"; "hydrostatic", the shape is kept; "fixed_volume", the volume is kept, exactly, as
            det(exp L) = exp(tr L); or which components may change: (6,) in ASE's order xx, yy, zz, yz, xz, xy, or
            (3, 3). By name, only directions along which the structure is periodic take part (`periodic_span`).

    Raises:
        ValueError: none of these, or a mask that allows nothing.
    """
    if isinstance(strain, str):
        if strain not in _BY_NAME:
            raise ValueError(f"strain must be one of {', '.join(_BY_NAME)} or a mask, got {strain!r}")
        return _BY_NAME[strain]
    mask = np.asarray(strain)
    if mask.shape == (6,):
        xx, yy, zz, yz, xz, xy = mask
        mask = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if mask.shape != (3, 3) or not np.all((mask == 0) | (mask == 1)):
        raise ValueError(f"a strain mask holds 6 or (3, 3) booleans, got {strain!r}")
    if not np.any(mask):
        raise ValueError("the strain mask allows nothing: take relax.relaxation for a fixed cell")
    allowed = mask.astype(bool)
    return lambda L, span: jnp.where(allowed, L, 0.0)


def periodic_span(cell: Cell, pbc: Array) -> Array:
    """Projector onto the directions along which the structure is periodic.

    The vectors of other axes are made up, and to strain them would only be another way to move the atoms.

    Args:
        cell: (3, 3) angstrom, full rank.
        pbc: (3,) bool.

    Returns:
        (3, 3), symmetric; the identity where all three axes are periodic.
    """
    periodic = jnp.where(pbc[:, None], cell, 0.0)
    # Ones on the diagonal stand in for what is not periodic, so that there is an inverse.
    gram = periodic @ periodic.T + jnp.diag((~pbc).astype(cell.dtype))
    return periodic.T @ jnp.linalg.solve(gram, periodic)


def _full(L: Array, span: Array) -> Array:
    return span @ L @ span


def _hydrostatic(L: Array, span: Array) -> Array:
    return span * _mean_stretch(L, span)


def _fixed_volume(L: Array, span: Array) -> Array:
    return _full(L, span) - _hydrostatic(L, span)


def _mean_stretch(L: Array, span: Array) -> Array:
    return jnp.sum(span * L) / jnp.maximum(jnp.trace(span), 1.0)


_BY_NAME = {"full": _full, "hydrostatic": _hydrostatic, "fixed_volume": _fixed_volume}
