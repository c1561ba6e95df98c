"""Neighbors that stay exact along a relaxation.

Two lists. `Candidates` are built on the host (vesin: any pbc, every periodic image, cells smaller than the
cutoff) out to cutoff + skin. `refresh` picks, on the device and at every step, the candidates that are inside
the cutoff *now* and, for potentials that need them, the short bonds and the angles between bonds: a `Graph`.
The graph is exact until some atom has moved further than skin/2 from where the candidates were built, or until
a capacity is exceeded; both set ``Graph.overflow``.

All choices are discrete and made on ``stop_gradient(positions)``; every potential multiplies its messages by an
envelope that is zero at the cutoff, so nothing is lost.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import vesin
from jax import lax

from bptt_relax._types import Array, Cell, HostArray, Positions

ROUNDING = 1e-3
"""Candidates reach this much further than they promise, angstrom, so that rounding (float32 too) misses no pair."""


class GraphSpec(NamedTuple):
    """What graph a potential asks for.

    Attributes:
        cutoff: edges are pairs closer than this, angstrom; zero for a potential that reads no graph (`NO_GRAPH`).
        bond_cutoff: bonds are edges shorter than this and angles are pairs of bonds that share their center,
            angstrom; zero for a potential without angles.
    """

    cutoff: float
    bond_cutoff: float = 0.0


NO_GRAPH = GraphSpec(0.0)
"""No edges at all: the lists are empty and never go stale."""


class Capacity(NamedTuple):
    """Padded lengths of the lists of one structure; equal capacities share one compilation."""

    candidates: int
    edges: int
    bonds: int
    angles: int


class Candidates(NamedTuple):
    """Directed pairs (center, neighbor, image) within cutoff + skin of the structure they were built for.

    Attributes:
        centers: (C,) int, ascending.
        neighbors: (C,) int.
        images: (C, 3) lattice translations of the neighbor, stored as floats.
        reverse: (C,) int, where the same pair stands seen from the other atom.
        mask: (C,) bool, False for padding.
        origin: (N, 3) positions the list was built for, angstrom.
        cell: (3, 3) cell the list was built for, angstrom.
        cutoff: (), angstrom.
        bond_cutoff: (), angstrom.
        skin: (), angstrom.
        edge_slots: (E,) int, 1..E; its length is the capacity for edges.
        bond_slots: (B,) int, likewise for bonds.
        angle_slots: (A,) int, likewise for angles.
    """

    centers: Array
    neighbors: Array
    images: Array
    reverse: Array
    mask: Array
    origin: Positions
    cell: Cell
    cutoff: Array
    bond_cutoff: Array
    skin: Array
    edge_slots: Array
    bond_slots: Array
    angle_slots: Array


class Graph(NamedTuple):
    """The edges, bonds and angles of a structure as it is now. Padding comes last in each list.

    Attributes:
        centers: (E,) int, ascending; the last atom where padded.
        neighbors: (E,) int.
        images: (E, 3) float lattice translations of the neighbor.
        reverse: (E,) int, the edge seen from the other atom.
        mask: (E,) bool.
        bonds: (B,) int, the edges that are bonds, by center; padded with the last edge slot.
        bond_reverse: (B,) int, the bond seen from the other atom.
        bond_mask: (B,) bool.
        angles: (A, 2) int, ordered pairs of different bonds (positions in ``bonds``) with the same center,
            ascending in the first.
        angle_mask: (A,) bool.
        overflow: () bool, this graph misses something and must not be used.
    """

    centers: Array
    neighbors: Array
    images: Array
    reverse: Array
    mask: Array
    bonds: Array
    bond_reverse: Array
    bond_mask: Array
    angles: Array
    angle_mask: Array
    overflow: Array


# Host: the candidates.


def find_pairs(
    positions: HostArray, cell: HostArray, pbc: HostArray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All directed pairs closer than ``cutoff``, every periodic image included.

    Args:
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom, full rank.
        pbc: (3,) bool.
        cutoff: angstrom.

    Returns:
        centers (C,), neighbors (C,), images (C, 3), sorted by center.

    Raises:
        ValueError: a position or the cell is not finite, or the cell has no volume.
    """
    positions, cell = np.asarray(positions, np.float64), np.asarray(cell, np.float64)
    _check_finite(positions, cell)
    i, j, S = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True).compute(
        points=positions,
        box=cell,
        periodic=np.asarray(pbc, bool),
        quantities="ijS",
    )
    i, j, S = i.astype(np.int32), j.astype(np.int32), S.astype(np.int32)
    order = np.lexsort((S[:, 2], S[:, 1], S[:, 0], j, i))
    return i[order], j[order], S[order]


def _check_finite(positions: np.ndarray, cell: np.ndarray) -> None:
    # vesin itself is killed by the processor (SIGFPE) on a cell that is not finite.
    if not np.all(np.isfinite(cell)) or abs(np.linalg.det(cell)) < 1e-9:
        raise ValueError(
            f"cell {cell.tolist()} is not finite or has no volume; give non-periodic axes a lattice vector too "
            "(ase: atoms.cell.complete())"
        )
    if not np.all(np.isfinite(positions)):
        atom = int(np.flatnonzero(~np.all(np.isfinite(positions), axis=1))[0])
        raise ValueError(f"position of atom {atom} is not finite: {positions[atom].tolist()}")


def measure(
    positions: HostArray,
    cell: HostArray,
    pbc: HostArray,
    spec: GraphSpec,
    skin: float,
    headroom: float = 1.15,
) -> Capacity:
    """Capacity that one structure needs, with headroom for what a relaxation changes.

    Args:
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom, full rank.
        pbc: (3,) bool.
        spec: the graph the potential asks for.
        skin: angstrom.
        headroom: factor on the numbers of bonds and angles found now; a third of it goes on pairs and edges.
    """
    return _with_headroom(_tally(positions, cell, pbc, spec, skin), spec, headroom)


def grow(
    capacity: Capacity,
    positions: HostArray,
    cell: HostArray,
    pbc: HostArray,
    spec: GraphSpec,
    skin: float,
) -> Capacity:
    """The same capacity where it still suffices at these positions (no recompilation), a roomy one where not.

    Args:
        capacity: the current one.
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom, full rank.
        pbc: (3,) bool.
        spec: the graph the potential asks for.
        skin: angstrom.
    """
    needed = _tally(positions, cell, pbc, spec, skin)
    roomy = _with_headroom(needed, spec, 1.15)
    return Capacity(
        *(have if need <= have else more for have, need, more in zip(capacity, needed, roomy, strict=True))
    )


def common_capacity(capacities: Iterable[Capacity]) -> Capacity:
    """The smallest capacity that holds each of the given ones."""
    return Capacity(*(max(values) for values in zip(*capacities, strict=True)))


def build_candidates(
    positions: HostArray,
    cell: HostArray,
    pbc: HostArray,
    spec: GraphSpec,
    *,
    skin: float = 1.0,
    capacity: Capacity | None = None,
    num_atoms: int | None = None,
) -> Candidates:
    """Build the padded candidate list of one structure on the host.

    Args:
        positions: (N, 3) angstrom, real atoms only.
        cell: (3, 3) angstrom, full rank.
        pbc: (3,) bool.
        spec: the graph the potential asks for.
        skin: how much further than the cutoff to look, angstrom. Atoms may move skin/2 before a rebuild.
        capacity: padded lengths; measured on this structure when not given.
        num_atoms: padded number of atoms; N when not given.

    Raises:
        ValueError: the cutoffs or the skin make no sense, or the capacity is too small for this structure.
    """
    positions, cell = np.asarray(positions, np.float64), np.asarray(cell, np.float64)
    if capacity is None:
        capacity = measure(positions, cell, pbc, spec, skin)
    num_atoms = len(positions) if num_atoms is None else num_atoms
    if num_atoms < len(positions):
        raise ValueError(f"num_atoms={num_atoms} is too small for a structure of {len(positions)} atoms")
    i, j, S = _find_candidates(positions, cell, pbc, spec, skin)
    if len(i) > capacity.candidates:
        raise ValueError(
            f"capacity.candidates is {capacity.candidates}, this structure has {len(i)} pairs within "
            f"{spec.cutoff + skin:.2f} angstrom; take neighbors.common_capacity over all structures"
        )
    padding = capacity.candidates - len(i)
    beyond = np.arange(len(i), capacity.candidates, dtype=np.int32)
    origin = np.zeros((num_atoms, 3))
    origin[: len(positions)] = positions
    return Candidates(
        centers=jnp.asarray(np.pad(i, (0, padding), constant_values=num_atoms - 1)),
        neighbors=jnp.asarray(np.pad(j, (0, padding), constant_values=num_atoms - 1)),
        images=jnp.asarray(np.pad(S, ((0, padding), (0, 0))), dtype=float),
        reverse=jnp.asarray(np.concatenate([_reverse(i, j, S), beyond])),
        mask=jnp.asarray(np.arange(capacity.candidates) < len(i)),
        origin=jnp.asarray(origin, dtype=float),
        cell=jnp.asarray(cell, dtype=float),
        cutoff=jnp.asarray(spec.cutoff, dtype=float),
        bond_cutoff=jnp.asarray(spec.bond_cutoff, dtype=float),
        skin=jnp.asarray(skin, dtype=float),
        edge_slots=jnp.asarray(np.arange(1, capacity.edges + 1, dtype=np.int32)),
        bond_slots=jnp.asarray(np.arange(1, capacity.bonds + 1, dtype=np.int32)),
        angle_slots=jnp.asarray(np.arange(1, capacity.angles + 1, dtype=np.int32)),
    )


def capacity_of(candidates: Candidates) -> Capacity:
    """The capacity a candidate list was padded to."""
    return Capacity(
        candidates.centers.shape[-1],
        candidates.edge_slots.shape[-1],
        candidates.bond_slots.shape[-1],
        candidates.angle_slots.shape[-1],
    )


def _find_candidates(
    positions: np.ndarray, cell: np.ndarray, pbc: HostArray, spec: GraphSpec, skin: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs within cutoff + skin, as `find_pairs`; none for `NO_GRAPH`, the structure being checked all the same."""
    reach = _reach(spec, skin)
    if spec.cutoff:
        return find_pairs(positions, cell, pbc, reach)
    _check_finite(positions, cell)
    nothing = np.zeros(0, np.int32)
    return nothing, nothing, np.zeros((0, 3), np.int32)


def _reach(spec: GraphSpec, skin: float) -> float:
    """How far candidates reach, angstrom."""
    if not 0.0 <= spec.cutoff < np.inf or not 0.0 <= spec.bond_cutoff <= spec.cutoff:
        raise ValueError(
            f"{spec}: the cutoff must be positive (zero for no graph) and the bond cutoff between zero and the cutoff"
        )
    if not 0.0 <= skin < np.inf:
        raise ValueError(f"skin={skin} must not be negative; 1.0 angstrom is a good start")
    return spec.cutoff + skin + ROUNDING


def _tally(positions: HostArray, cell: HostArray, pbc: HostArray, spec: GraphSpec, skin: float) -> Capacity:
    """What one structure needs now, to the entry."""
    positions, cell = np.asarray(positions, np.float64), np.asarray(cell, np.float64)
    i, j, S = _find_candidates(positions, cell, pbc, spec, skin)
    lengths = np.linalg.norm(positions[j] + S @ cell - positions[i], axis=1)
    # The device may round one more pair in: a capacity must not be full on the host and exceeded there.
    edges = int(np.sum(lengths < spec.cutoff + ROUNDING))
    if not spec.bond_cutoff:
        return Capacity(len(i), edges, 0, 0)
    # A relaxation that brings atoms closer makes new bonds; count those of a slightly wider shell.
    bonded = np.bincount(i[lengths < 1.05 * spec.bond_cutoff], minlength=len(positions))
    return Capacity(len(i), edges, int(np.sum(bonded)), int(np.sum(bonded * (bonded - 1))))


def _with_headroom(needed: Capacity, spec: GraphSpec, headroom: float) -> Capacity:
    # Pairs within the long cutoff hardly change in number while atoms relax; bonds and angles do.
    slightly = 1.0 + (headroom - 1.0) / 3
    return Capacity(
        candidates=_round_up(slightly * needed.candidates, 64),
        edges=_round_up(slightly * needed.edges, 32),
        bonds=_round_up(headroom * needed.bonds, 16) if spec.bond_cutoff else 0,
        angles=_round_up(headroom * needed.angles, 32) if spec.bond_cutoff else 0,
    )


def _round_up(count: float, multiple: int) -> int:
    return max(multiple, int(np.ceil(count / multiple)) * multiple)


def _reverse(i: np.ndarray, j: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Position of (j, i, -S) for every (i, j, S), both lists in lexicographic order."""
    forward = np.lexsort((S[:, 2], S[:, 1], S[:, 0], j, i))
    backward = np.lexsort((-S[:, 2], -S[:, 1], -S[:, 0], i, j))
    reverse = np.empty(len(i), np.int32)
    reverse[backward] = forward
    return reverse


# Device: the graph.


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
