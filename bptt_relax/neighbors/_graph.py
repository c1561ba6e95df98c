"""On the device, at every step: candidates inside the cutoff now, bonds and angles, and whether any may be missing."""

import jax
import jax.numpy as jnp
from jax import lax

from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Cell, Positions
from bptt_relax.neighbors._contract import ROUNDING, Candidates, Graph


@full_matmul
def refresh(candidates: Candidates | None, positions: Positions, cell: Cell) -> Graph:
    """Select from the candidates what is inside the cutoff at these positions.

    Args:
        candidates: the host's list.
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom.

    Raises:
        ValueError: while tracing, there are no candidates.
    """
    if candidates is None:
        raise ValueError(
            "the system has no neighbors yet: call systems.with_neighbors or systems.prepare first"
        )
    R, h = lax.stop_gradient((positions, cell))
    c = candidates
    v = R[c.neighbors] + c.images @ h - R[c.centers]
    squared = jnp.sum(v * v, axis=-1)
    inside = c.mask & (squared < c.cutoff**2)
    inside &= inside[c.reverse]  # rounding must not keep a pair in one direction only
    selected, mask, slot, missing = _compact(inside, c.edge_slots)
    num_atoms = positions.shape[0]
    centers = jnp.where(mask, c.centers[selected], num_atoms - 1)
    reverse = jnp.where(mask, slot[c.reverse[selected]], c.edge_slots - 1)

    short = mask & (squared[selected] < c.bond_cutoff**2)
    short &= short[reverse]
    bonds, bond_mask, bond_slot, bonds_missing = _compact(short, c.bond_slots)
    bond_reverse = jnp.where(bond_mask, bond_slot[reverse[bonds]], c.bond_slots - 1)
    angles, angle_mask, angles_missing = _pair_bonds(centers[bonds], bond_mask, c.angle_slots, num_atoms)

    return Graph(
        centers=centers,
        neighbors=jnp.where(mask, c.neighbors[selected], num_atoms - 1),
        images=c.images[selected],
        reverse=reverse,
        mask=mask,
        bonds=bonds,
        bond_reverse=bond_reverse,
        bond_mask=bond_mask,
        angles=angles,
        angle_mask=angle_mask,
        overflow=missing | bonds_missing | angles_missing | _moved_too_far(c, R, h),
    )


@full_matmul
def edge_vectors(graph: Graph, positions: Positions, cell: Cell) -> Array:
    """Vectors from each edge's center to its neighbor.

    Args:
        graph: from `refresh`.
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom.

    Returns:
        (E, 3) angstrom. Padded edges get a constant vector that no square root, power or arccos minds.
    """
    v = positions[graph.neighbors] + graph.images @ cell - positions[graph.centers]
    return jnp.where(graph.mask[:, None], v, jnp.array([[1.0, 1.1, 1.2]], v.dtype))


def _compact(keep: Array, slots: Array) -> tuple[Array, Array, Array, Array]:
    """Indices of the True entries in order, padded to ``len(slots)``; their mask; the slot of each entry; overflow."""
    if slots.shape[0] == 0:
        empty = jnp.zeros((0,), jnp.int32)
        return empty, empty.astype(bool), jnp.zeros(keep.shape, jnp.int32), jnp.any(keep)
    running = jnp.cumsum(keep.astype(jnp.int32))
    # The k-th kept entry is the first place where the running count reaches k: gathers only, no scatter.
    indices = jnp.searchsorted(running, slots, side="left").astype(jnp.int32)
    mask = slots <= running[-1]
    indices = jnp.where(mask, indices, keep.shape[0] - 1)
    return indices, mask, jnp.maximum(running - 1, 0), running[-1] > slots.shape[0]


def _pair_bonds(centers: Array, mask: Array, slots: Array, num_atoms: int) -> tuple[Array, Array, Array]:
    """All ordered pairs of different bonds that share their center, for bonds sorted by center."""
    atoms = jnp.arange(num_atoms + 1, dtype=centers.dtype)
    first = jnp.searchsorted(jnp.where(mask, centers, num_atoms), atoms).astype(jnp.int32)
    here, there = first[centers], first[centers + 1]
    partners = jnp.where(mask, there - here - 1, 0)
    if slots.shape[0] == 0:
        return jnp.zeros((0, 2), jnp.int32), jnp.zeros((0,), bool), jnp.any(partners > 0)
    running = jnp.cumsum(partners)
    bond = jnp.searchsorted(running, slots, side="left").astype(jnp.int32)
    angle_mask = slots <= running[-1]
    bond = jnp.where(angle_mask, bond, centers.shape[0] - 1)
    rank = slots - 1 - (running[bond] - partners[bond])
    partner = here[bond] + rank
    partner = partner + (partner >= bond)
    partner = jnp.where(angle_mask, partner, centers.shape[0] - 1)
    return jnp.stack([bond, partner], axis=1), angle_mask, running[-1] > slots.shape[0]


def _moved_too_far(c: Candidates, R: Positions, h: Cell) -> Array:
    """True once a pair inside the cutoff may be missing among the candidates.

    With R = R0 F + u and |v| < r_c now, the pair was at |v0| <= (r_c + 2 max|u|) ||F^-1|| when the list was built.
    """
    inverse = jnp.linalg.solve(h, c.cell)
    u = R - c.origin @ jnp.linalg.solve(c.cell, h)
    furthest = jnp.sqrt(jnp.max(jnp.sum(u * u, axis=-1)))
    stretch = 1.0 + jnp.linalg.norm(inverse - jnp.eye(3, dtype=h.dtype))
    complete = (c.cutoff + 2 * furthest) * stretch <= c.cutoff + c.skin + 0.5 * ROUNDING
    # Where no pair is wanted, none can be missing.
    return ~complete & (c.cutoff > 0)


def count(graph: Graph) -> dict[str, int]:
    """Numbers of real edges, bonds and angles, for messages."""
    return {
        "edges": int(jax.device_get(graph.mask).sum()),
        "bonds": int(jax.device_get(graph.bond_mask).sum()),
        "angles": int(jax.device_get(graph.angle_mask).sum()),
    }
