"""Our graph as jax-md's neighbor list, for energies written against it."""

from typing import Any, cast

import jax.numpy as jnp
from jax_md import partition

from bptt_relax._types import Array, Positions
from bptt_relax.neighbors import Graph
from bptt_relax.systems import System


def neighbor_list(graph: Graph, positions: Positions, per_atom: int | None) -> partition.NeighborList:
    """A list of pairs, or of so many neighbors of each atom.

    Args:
        graph: the neighbors.
        positions: (N, 3) angstrom.
        per_atom: length of each atom's list; None for a list of pairs.
    """
    num_atoms = positions.shape[0]
    if per_atom is None:
        # Padding: jax-md looks whether the first is an atom; as the second, one that the last atom is not.
        idx = jnp.stack(
            [jnp.where(graph.mask, graph.centers, num_atoms), jnp.where(graph.mask, graph.neighbors, 0)]
        )
        form = partition.Sparse
    else:
        column = _place(graph, num_atoms)
        column = jnp.where(graph.mask & (column < per_atom), column, per_atom)
        idx = jnp.full((num_atoms, per_atom), num_atoms, graph.neighbors.dtype)
        idx = idx.at[graph.centers, column].set(graph.neighbors, mode="drop")
        form = partition.Dense
    # Its dataclasses hide their fields from type checkers.
    build, error = cast(Any, partition.NeighborList), cast(Any, partition.PartitionError)
    return build(
        idx=idx,
        reference_position=positions,
        error=error(jnp.zeros((), jnp.uint8)),
        cell_list_capacity=None,
        max_occupancy=idx.shape[1],
        format=form,
        cell_size=None,
        cell_list_fn=None,
        update_fn=None,
    )


def can_hold(graph: Graph, system: System, cutoff: float, per_atom: int | None) -> Array:
    """True where such a list says all: each pair within the cutoff is one pair only, and no atom has too many.

    Args:
        graph: the neighbors.
        system: the structure.
        cutoff: angstrom.
        per_atom: as for `neighbor_list`.
    """
    heights = 1.0 / jnp.linalg.norm(jnp.linalg.inv(system.cell), axis=0)
    fits = jnp.all(~system.pbc | (heights >= 2.0 * cutoff))
    if per_atom is None:
        return fits
    return fits & jnp.all(~graph.mask | (_place(graph, system.mask.shape[0]) < per_atom))


def _place(graph: Graph, num_atoms: int) -> Array:
    """Place of each edge among those of its center."""
    first = jnp.searchsorted(graph.centers, jnp.arange(num_atoms, dtype=graph.centers.dtype))
    return jnp.arange(graph.centers.shape[0]) - first[graph.centers]
