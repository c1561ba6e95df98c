"""On the host: every pair that may come inside the cutoff before the list is built again, and how many there are."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
import vesin

from bptt_relax._types import HostArray
from bptt_relax.neighbors._contract import ROUNDING, Candidates, Capacity, GraphSpec


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
