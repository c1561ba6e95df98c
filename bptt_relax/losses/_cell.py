"""Differences between two cells, one value per structure, and positions carried from one cell into another.

Both cells must be described by the same choice of lattice vectors, in the same order; how they are turned in space does
not matter. All values are zero for equal cells, and so are their gradients there.
"""

from collections.abc import Callable

import jax.numpy as jnp

from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Cell, Positions, Scalar
from bptt_relax.losses._displacement import delta_q
from bptt_relax.systems import System
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


@full_matmul
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


def delta_q_in_cell(
    positions: Positions, cell: Cell, reference: Positions, reference_cell: Cell, system: System
) -> Scalar:
    """Delta Q with the difference of the cells taken out: both structures in the reference's cell (`carry`).

    Args:
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom, full rank, that the positions belong to.
        reference: (N, 3) angstrom.
        reference_cell: (3, 3) angstrom, full rank, that the reference belongs to.
        system: pbc, masses, masks; its own cell is not used.

    Returns:
        () sqrt(u) * angstrom.
    """
    return structure_distance(positions, cell, reference, reference_cell, system, cell_weight=0.0)


def cell_delta_q(cell: Cell, reference: Cell, system: System) -> Scalar:
    """Size of the strain between two cells in the units of Delta Q: sqrt(M) (V* / n)^(1/3) |E|.

    M is the mass of the n atoms, V* the reference's volume and |E| `cell_strain`: as if every atom were out of place
    by the strain times the distance to its neighbors. In a supercell it grows as Delta Q does.

    Args:
        cell: (3, 3) angstrom, full rank.
        reference: (3, 3) angstrom, full rank.
        system: masses, mask.

    Returns:
        () sqrt(u) * angstrom.
    """
    atoms = jnp.maximum(jnp.sum(system.mask), 1)
    spacing = jnp.cbrt(jnp.abs(jnp.linalg.det(reference)) / atoms)
    return jnp.sqrt(jnp.sum(system.masses)) * spacing * cell_strain(cell, reference)


def structure_distance(
    positions: Positions,
    cell: Cell,
    reference: Positions,
    reference_cell: Cell,
    system: System,
    *,
    cell_weight: float = 1.0,
    distance: Callable[[Positions, Positions, System], Scalar] = delta_q,
) -> Scalar:
    """Distance of two structures in positions and cell: sqrt(Delta Q^2 + (w Delta Q_cell)^2).

    The first is that of the positions in the reference's cell (`carry`), the second `cell_delta_q`.

    Args:
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom.
        reference: (N, 3) angstrom.
        reference_cell: (3, 3) angstrom.
        system: pbc, masses, masks.
        cell_weight: w.
        distance: of positions in one cell, where not Delta Q.

    Returns:
        () sqrt(u) * angstrom; its gradient at zero distance is zero.
    """
    carried = carry(positions, cell, reference_cell)
    of_atoms = distance(carried, reference, system._replace(cell=reference_cell))
    of_cell = cell_weight * cell_delta_q(cell, reference_cell, system)
    return safe_norm(jnp.stack([of_atoms, of_cell]))
