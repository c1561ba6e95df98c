"""A structure as a pytree: what the atoms are and where they may be found, without their positions.

Positions are kept apart because they are what a relaxation moves and what gradients flow through.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bptt_relax import neighbors
from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Cell, HostArray, Positions
from bptt_relax.neighbors import Candidates, Capacity, GraphSpec


class System(NamedTuple):
    """Everything about a structure that a relaxation does not move.

    Attributes:
        species: (N,) int, atomic numbers; 0 where padded.
        masses: (N,) unified atomic mass units; 0 where padded.
        cell: (3, 3) angstrom, rows are lattice vectors, always of full rank (non-periodic axes are completed).
        pbc: (3,) bool.
        mask: (N,) bool, False where padded.
        free: (N, 3) bool, which Cartesian components may move; False where padded.
        candidates: neighbor candidates, or None before `with_neighbors`.
    """

    species: Array
    masses: Array
    cell: Cell
    pbc: Array
    mask: Array
    free: Array
    candidates: Candidates | None = None


class Structure(NamedTuple):
    """One structure on the host, in plain numpy, before padding.

    Attributes:
        name: what messages call it.
        species: (n,) atomic numbers.
        masses: (n,) unified atomic mass units.
        positions: (n, 3) angstrom.
        cell: (3, 3) angstrom, full rank.
        pbc: (3,) bool.
        free: (n, 3) bool.
    """

    name: str
    species: np.ndarray
    masses: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    free: np.ndarray


class Layout(NamedTuple):
    """Padded sizes shared by several structures, so that one compilation serves them all."""

    num_atoms: int
    capacity: Capacity


class Pair(NamedTuple):
    """A relaxation to learn from: where it starts and where the reference method ends.

    Attributes:
        initial: (N, 3) angstrom.
        relaxed: (N, 3) angstrom, index-matched with ``initial``.
        system: the structure, in the cell of the start.
        relaxed_cell: (3, 3) angstrom, of ``relaxed``, where the cell is relaxed too; None where it is given, and is
            ``system.cell``.
    """

    initial: Positions
    relaxed: Positions
    system: System
    relaxed_cell: Cell | None = None


def plan_layout(
    structures: list[Structure], spec: GraphSpec, *, skin: float = 1.0, headroom: float = 1.15
) -> Layout:
    """The smallest layout that holds every given structure.

    Args:
        structures: on the host; give every configuration that will be a start or an end.
        spec: the graph the potential asks for.
        skin: angstrom.
        headroom: as `neighbors.measure`; more where cells shrink.

    Raises:
        ValueError: no structures.
    """
    if not structures:
        raise ValueError("plan_layout needs at least one structure")
    capacities = [neighbors.measure(s.positions, s.cell, s.pbc, spec, skin, headroom) for s in structures]
    return Layout(max(len(s.species) for s in structures), neighbors.common_capacity(capacities))


def build_system(structure: Structure, num_atoms: int | None = None) -> tuple[Positions, System]:
    """Pad a structure to ``num_atoms`` and move it to the device, without neighbors.

    Returns:
        positions (num_atoms, 3) and the system.

    Raises:
        ValueError: ``num_atoms`` is smaller than the structure.
    """
    n = len(structure.species)
    num_atoms = n if num_atoms is None else num_atoms
    if num_atoms < n:
        raise ValueError(f"structure {structure.name} has {n} atoms, num_atoms={num_atoms} is too small")
    extra = num_atoms - n
    system = System(
        species=jnp.asarray(np.pad(structure.species, (0, extra)), jnp.int32),
        masses=jnp.asarray(np.pad(structure.masses, (0, extra)), float),
        cell=jnp.asarray(structure.cell, float),
        pbc=jnp.asarray(structure.pbc, bool),
        mask=jnp.asarray(np.arange(num_atoms) < n),
        free=jnp.asarray(np.pad(structure.free, ((0, extra), (0, 0))), bool),
    )
    return jnp.asarray(np.pad(structure.positions, ((0, extra), (0, 0))), float), system


def with_neighbors(
    positions: HostArray,
    system: System,
    spec: GraphSpec,
    *,
    skin: float = 1.0,
    capacity: Capacity | None = None,
) -> System:
    """Attach neighbor candidates built on the host for these positions.

    Args:
        positions: (N, 3) angstrom, padded like the system.
        system: the structure; its cell is used.
        spec: the graph the potential asks for (``potential.graph``).
        skin: angstrom; atoms may move skin/2 before a rebuild.
        capacity: padded lengths; measured when not given.
    """
    mask = np.asarray(system.mask)
    candidates = neighbors.build_candidates(
        np.asarray(positions)[mask],
        np.asarray(system.cell),
        np.asarray(system.pbc),
        spec,
        skin=skin,
        capacity=capacity,
        num_atoms=len(mask),
    )
    return system._replace(candidates=candidates)


def rebuild_neighbors(positions: HostArray, system: System) -> System:
    """Rebuild the candidates at new positions, growing capacities only where they are exceeded.

    Args:
        positions: (N, 3) angstrom.
        system: with candidates; its cutoffs, skin and, where they suffice, capacities are kept.

    Raises:
        ValueError: the system has no candidates yet.
    """
    if system.candidates is None:
        raise ValueError("the system has no neighbors yet: call systems.with_neighbors first")
    c = system.candidates
    spec = GraphSpec(float(c.cutoff), float(c.bond_cutoff))
    mask = np.asarray(system.mask)
    capacity = neighbors.grow(
        neighbors.capacity_of(c),
        np.asarray(positions, np.float64)[mask],
        np.asarray(system.cell, np.float64),
        np.asarray(system.pbc),
        spec,
        float(c.skin),
    )
    return with_neighbors(positions, system, spec, skin=float(c.skin), capacity=capacity)


def prepare(
    structure: Structure, spec: GraphSpec, layout: Layout | None = None, *, skin: float = 1.0
) -> tuple[Positions, System]:
    """Positions and system of one structure, padded and with neighbors: what a relaxation starts from.

    Args:
        structure: on the host.
        spec: the graph the potential asks for (``potential.graph``).
        layout: padded sizes (`plan_layout`); this structure's own when not given.
        skin: angstrom.
    """
    layout = plan_layout([structure], spec, skin=skin) if layout is None else layout
    positions, system = build_system(structure, layout.num_atoms)
    return positions, with_neighbors(positions, system, spec, skin=skin, capacity=layout.capacity)


def prepare_pair(
    initial: Structure,
    relaxed: Structure,
    spec: GraphSpec,
    layout: Layout | None = None,
    *,
    skin: float = 1.0,
    free_cell: bool = False,
) -> Pair:
    """A training pair, padded and with neighbors built around its start.

    Args:
        initial: where to start.
        relaxed: where the reference method ends.
        spec: the graph the potential asks for (``potential.graph``).
        layout: padded sizes; those of the start when not given.
        skin: angstrom.
        free_cell: the cell is relaxed too; otherwise the pair has that of the start.

    Raises:
        ValueError: the two differ in number or order of species.
    """
    if len(initial.species) != len(relaxed.species) or np.any(initial.species != relaxed.species):
        raise ValueError(
            f"structure {initial.name}: initial and relaxed differ in their atoms "
            f"({len(initial.species)} and {len(relaxed.species)}); they must match index by index"
        )
    positions, system = prepare(initial, spec, layout, skin=skin)
    target, there = build_system(relaxed, positions.shape[0])
    return Pair(positions, target, system, there.cell if free_cell else None)


@full_matmul
def wrap_nearest(displacement: Array, cell: Cell, pbc: Array) -> Array:
    """Minimum-image form of displacements, exact for displacements well below half a cell height.

    Args:
        displacement: (N, 3) angstrom.
        cell: (3, 3) angstrom, full rank.
        pbc: (3,) bool.
    """
    fractional = displacement @ jnp.linalg.inv(cell)
    images = jnp.where(pbc[None, :], jnp.round(fractional), 0.0)
    return displacement - images @ cell
