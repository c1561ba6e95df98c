"""Differences between two cells, one value per structure, and positions carried from one cell into another.

Both cells must be described by the same choice of lattice vectors, in the same order; how they are turned in space does
not matter. All values are zero for equal cells, and so are their gradients there.
"""

import jax.numpy as jnp

from bptt_relax._types import Array, Cell, Positions, Scalar
from bptt_relax.trees import safe_norm, safe_sqrt


def cell_lengths(cell: Cell) -> Array:
    """Lengths of the lattice vectors a, b, c.

    Args:
        cell: (3, 3) angstrom, full rank.

    Returns:
        (3,) angstrom.
    """
    return safe_norm(cell)


def cell_angles(cell: Cell) -> Array:
    """Angles alpha (b, c), beta (a, c), gamma (a, b) between the lattice vectors.

    Args:
        cell: (3, 3) angstrom, full rank.

    Returns:
        (3,) degrees.
    """
    unit = cell / safe_norm(cell, keepdims=True)
    cosines = jnp.sum(unit[jnp.array([1, 0, 0])] * unit[jnp.array([2, 2, 1])], axis=-1)
    return jnp.degrees(jnp.arccos(cosines))


def length_rmsd(cell: Cell, reference: Cell) -> Scalar:
    """Root mean square difference of the three lengths, angstrom.

    Args:
        cell: (3, 3) angstrom, full rank.
        reference: (3, 3) angstrom, full rank.
    """
    return safe_sqrt(jnp.mean((cell_lengths(cell) - cell_lengths(reference)) ** 2))


def angle_rmsd(cell: Cell, reference: Cell) -> Scalar:
    """Root mean square difference of the three angles, degrees. Arguments as `length_rmsd`."""
    return safe_sqrt(jnp.mean((cell_angles(cell) - cell_angles(reference)) ** 2))


def volume_error(cell: Cell, reference: Cell) -> Scalar:
    """Relative difference of the volumes, |V / V* - 1|, a pure number. Arguments as `length_rmsd`."""
    ratio = jnp.abs(jnp.linalg.det(cell) / jnp.linalg.det(reference))
    return safe_norm((ratio - 1.0)[None])


def cell_strain(cell: Cell, reference: Cell) -> Scalar:
    """Size of the strain that leads from the reference to the cell, a pure number.

    The Frobenius norm of the Green-Lagrange strain (F^T F - 1) / 2 with h = h* F^T: blind to rotations, and the
    relative change of a length for a small stretch along one axis.

    Args:
        cell: (3, 3) angstrom, full rank.
        reference: (3, 3) angstrom, full rank.
    """
    F = jnp.linalg.solve(reference, cell).T
    E = 0.5 * (F.T @ F - jnp.eye(3, dtype=F.dtype))
    return safe_norm(E.reshape(-1))


def carry(positions: Positions, cell: Cell, target: Cell) -> Positions:
    """Positions with the same fractional coordinates in another cell.

    What is left of a difference between two relaxed structures once that of their cells, rotation included, is taken
    out: ``delta_q(carry(x, cell, cell*), x*, system._replace(cell=cell*))``.

    Args:
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom, full rank, that the positions belong to.
        target: (3, 3) angstrom.

    Returns:
        (N, 3) angstrom.
    """
    return positions @ jnp.linalg.solve(cell, target)
