"""Neighbor lists: right in every cell, and right at every step or flagged."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc100, molecule
from ase.neighborlist import neighbor_list
from hypothesis import assume, given
from hypothesis import strategies as st

from bptt_relax import neighbors
from bptt_relax.neighbors import Capacity, GraphSpec

SPEC = GraphSpec(cutoff=3.6, bond_cutoff=2.9)
SKIN = 1.0

refresh = jax.jit(neighbors.refresh)


def tiny() -> Atoms:
    return Atoms("Al", cell=np.diag([2.3, 2.4, 2.6]), pbc=True, positions=[[0.3, 0.1, 0.2]])


def triclinic() -> Atoms:
    cell = [[3.1, 0.2, 0.0], [1.4, 2.9, 0.3], [-0.9, 0.8, 4.2]]
    return Atoms(
        "SiGeC", cell=cell, pbc=True, scaled_positions=[[0.1, 0.2, 0.3], [0.5, 0.6, 0.2], [0.8, 0.1, 0.9]]
    )


def left_handed() -> Atoms:
    atoms = triclinic()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=True)
    assert np.linalg.det(atoms.cell.array) < 0
    return atoms


def mixed_pbc() -> Atoms:
    atoms = triclinic()
    atoms.pbc = [True, False, True]
    return atoms


def slab() -> Atoms:
    atoms = fcc100("Al", (1, 1, 3), a=4.05)
    atoms.center(vacuum=None, axis=2)
    atoms.cell[2] = [0.0, 0.0, 3.0]  # shorter than the slab: it sticks out where nothing repeats
    return atoms


def outside() -> Atoms:
    atoms = triclinic()
    atoms.positions += np.array([[2, -1, 0], [0, 3, -2], [-1, 0, 1]]) @ atoms.cell.array
    return atoms


def no_pbc() -> Atoms:
    atoms = molecule("CH3CH2OH")[:7]
    atoms.cell = atoms.cell.complete()
    return atoms


def isolated() -> Atoms:
    return Atoms("Si", cell=20.0 * np.eye(3), pbc=True, positions=[[1.0, 2.0, 3.0]])


def needle() -> Atoms:
    return Atoms("Si2", cell=np.diag([1.9, 2.0, 15.0]), pbc=True, positions=[[0, 0, 0], [0.4, 0.9, 2.2]])


def diamond() -> Atoms:
    atoms = bulk("Si")
    atoms.positions[1] += [0.1, -0.05, 0.02]
    return atoms


CELLS = [tiny, triclinic, left_handed, mixed_pbc, slab, outside, no_pbc, isolated, needle, diamond]
CELL_IDS = [make.__name__ for make in CELLS]


def geometry(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return atoms.positions.copy(), atoms.cell.array.copy(), np.asarray(atoms.pbc)


def expected_edges(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> np.ndarray:
    """(C, 5) rows i, j, S from ASE, sorted."""
    atoms = Atoms(numbers=np.ones(len(positions)), positions=positions, cell=cell, pbc=pbc)
    i, j, S = neighbor_list("ijS", atoms, float(cutoff))
    return _sorted(np.column_stack([i, j, S]))


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[::-1])] if len(rows) else rows.reshape(0, 5)


def edges_of(graph: neighbors.Graph) -> np.ndarray:
    """(E, 5) rows i, j, S of the real edges, in the order of the graph."""
    rows = np.column_stack([graph.centers, graph.neighbors, np.asarray(graph.images).astype(int)])
    return rows[np.asarray(graph.mask)]


def check_graph(
    graph: neighbors.Graph, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, spec: GraphSpec = SPEC
) -> None:
    """The graph holds exactly the edges, bonds and angles that a search from scratch finds."""
    edges = edges_of(graph)
    np.testing.assert_array_equal(_sorted(edges), expected_edges(positions, cell, pbc, spec.cutoff))
    mask = np.asarray(graph.mask)
    assert not np.any(mask[np.argmin(mask) :]) or mask.all(), "padding does not come last"
    centers = np.asarray(graph.centers)
    assert np.all(np.diff(centers) >= 0), "conservative() sums over sorted centers"

    # Every edge knows itself seen from the other atom; padded ones point at themselves.
    reverse = np.asarray(graph.reverse)
    turned = np.column_stack([edges[:, 1], edges[:, 0], -edges[:, 2:]])
    np.testing.assert_array_equal(edges[reverse[mask]], turned)
    np.testing.assert_array_equal(reverse[~mask], np.flatnonzero(~mask))

    bond_mask = np.asarray(graph.bond_mask)
    bonds = np.asarray(graph.bonds)[bond_mask]
    short = (
        expected_edges(positions, cell, pbc, spec.bond_cutoff) if spec.bond_cutoff else np.zeros((0, 5), int)
    )
    np.testing.assert_array_equal(_sorted(edges[bonds]), short)
    assert np.all(np.diff(bonds) > 0)
    bond_reverse = np.asarray(graph.bond_reverse)
    np.testing.assert_array_equal(bonds[bond_reverse[bond_mask]], reverse[bonds])
    np.testing.assert_array_equal(bond_reverse[~bond_mask], np.flatnonzero(~bond_mask))

    center = edges[bonds, 0]
    expected = [(a, b) for a, b in itertools.permutations(range(len(bonds)), 2) if center[a] == center[b]]
    angles = np.asarray(graph.angles)[np.asarray(graph.angle_mask)]
    assert sorted(map(tuple, angles.tolist())) == sorted(expected)
    assert len(set(map(tuple, angles.tolist()))) == len(angles)
    assert np.all(np.diff(np.asarray(graph.angles)[:, 0]) >= 0)


@pytest.fixture(scope="module")
def shared() -> tuple[int, Capacity]:
    """One padded size for all the small cells: one compilation, and padding in every test."""
    capacities = [neighbors.measure(*geometry(make()), SPEC, SKIN) for make in CELLS]
    return 9, neighbors.common_capacity(capacities)


def padded(positions: np.ndarray, num_atoms: int) -> jax.Array:
    return jnp.asarray(np.pad(positions, ((0, num_atoms - len(positions)), (0, 0))))


@pytest.mark.parametrize("cutoff", [2.0, 3.0, 6.5])
@pytest.mark.parametrize("make", CELLS, ids=CELL_IDS)
def test_pairs_match_ase(make, cutoff):
    positions, cell, pbc = geometry(make())
    pairs = np.column_stack(neighbors.find_pairs(positions, cell, pbc, cutoff))
    np.testing.assert_array_equal(pairs, expected_edges(positions, cell, pbc, cutoff))


@st.composite
def geometries(draw, max_atoms: int = 6, spread: float = 1.5):
    """Positions, cell and pbc of anything: skewed, left-handed, far outside the cell."""
    seed = draw(st.integers(0, 2**32 - 1))
    count = draw(st.integers(1, max_atoms))
    pbc = np.array(draw(st.tuples(st.booleans(), st.booleans(), st.booleans())))
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1.0, 1.0], 3)
    cell = np.diag(generator.uniform(2.0, 6.0, 3) * signs) + generator.uniform(-1.5, 1.5, (3, 3))
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    assume(heights.min() > 1.2)
    positions = generator.uniform(-spread, 1 + spread, (count, 3)) @ cell
    return positions, cell, pbc


@given(geometries(), st.floats(0.5, 6.0))
def test_pairs_match_ase_anywhere(geometry, cutoff):
    positions, cell, pbc = geometry
    pairs = np.column_stack(neighbors.find_pairs(positions, cell, pbc, cutoff))
    np.testing.assert_array_equal(pairs, expected_edges(positions, cell, pbc, cutoff))


@pytest.mark.parametrize("make", CELLS, ids=CELL_IDS)
def test_graph_of_every_kind_of_cell(make, shared):
    positions, cell, pbc = geometry(make())
    num_atoms, capacity = shared
    candidates = neighbors.build_candidates(
        positions, cell, pbc, SPEC, skin=SKIN, capacity=capacity, num_atoms=num_atoms
    )
    assert neighbors.capacity_of(candidates) == capacity
    graph = refresh(candidates, padded(positions, num_atoms), jnp.asarray(cell))
    assert not graph.overflow
    check_graph(graph, positions, cell, pbc)


@pytest.mark.parametrize("make", CELLS, ids=CELL_IDS)
def test_candidates_know_their_reverse(make):
    positions, cell, pbc = geometry(make())
    c = neighbors.build_candidates(positions, cell, pbc, SPEC, skin=SKIN)
    mask, reverse = np.asarray(c.mask), np.asarray(c.reverse)
    rows = np.column_stack([c.centers, c.neighbors, np.asarray(c.images).astype(int)])
    turned = np.column_stack([rows[:, 1], rows[:, 0], -rows[:, 2:]])
    np.testing.assert_array_equal(rows[reverse][mask], turned[mask])
    np.testing.assert_array_equal(reverse[~mask], np.flatnonzero(~mask))


# A structure that moves: 8 sites of strained silicon, a cell smaller than twice the cutoff.


@pytest.fixture(scope="module")
def moving(make_silicon):
    atoms = make_silicon(1, vacancy=False)
    positions, cell, pbc = geometry(atoms)
    # Roomy, so that only motion can set the overflow bit in the tests below.
    capacity = neighbors.measure(positions, cell, pbc, SPEC, SKIN)
    return positions, cell, pbc, Capacity(*(3 * size for size in capacity))


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.floats(0.0, 1.3),
    strain=st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.3]),
)
def test_moved_graph_is_rebuilt_graph_or_flagged(moving, seed, size, strain):
    positions, cell, pbc, capacity = moving
    generator = np.random.default_rng(seed)
    directions = generator.normal(size=positions.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    deformation = np.eye(3) + strain * generator.uniform(-1, 1, (3, 3))
    new_cell = cell @ deformation
    moved = positions @ deformation + size * SKIN / 2 * directions

    candidates = neighbors.build_candidates(positions, cell, pbc, SPEC, skin=SKIN, capacity=capacity)
    graph = refresh(candidates, jnp.asarray(moved), jnp.asarray(new_cell))
    if strain == 0.0:
        # Without strain the bit is sharp: it says no more than that an atom left skin/2.
        assert bool(graph.overflow) == (size > 1.0 + neighbors.ROUNDING / 2 / SKIN) or abs(size - 1.0) < 1e-3
    if graph.overflow:
        return
    check_graph(graph, moved, new_cell, pbc)
    rebuilt = neighbors.build_candidates(moved, new_cell, pbc, SPEC, skin=SKIN, capacity=capacity)
    fresh = refresh(rebuilt, jnp.asarray(moved), jnp.asarray(new_cell))
    np.testing.assert_array_equal(edges_of(graph), edges_of(fresh))
    for name in ("bonds", "bond_mask", "bond_reverse", "angles", "angle_mask", "reverse", "mask", "centers"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(fresh, name), err_msg=name)


@given(seed=st.integers(0, 2**32 - 1))
def test_rotation_translation_images_and_order_do_not_matter(moving, seed):
    positions, cell, pbc, capacity = moving
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    shift = generator.uniform(-20, 20, 3)
    wraps = generator.integers(-3, 4, positions.shape)
    order = generator.permutation(len(positions))

    new_cell = cell @ rotation
    moved = ((positions + wraps @ cell) @ rotation + shift)[order]
    candidates = neighbors.build_candidates(moved, new_cell, pbc, SPEC, skin=SKIN, capacity=capacity)
    graph = refresh(candidates, jnp.asarray(moved), jnp.asarray(new_cell))
    assert not graph.overflow
    found = edges_of(graph)

    # Back to the old names: atom order[k] is now k, and its image is counted from where it was put.
    i, j, S = order[found[:, 0]], order[found[:, 1]], found[:, 2:]
    back = _sorted(np.column_stack([i, j, S + wraps[j] - wraps[i]]))
    np.testing.assert_array_equal(back, expected_edges(positions, cell, pbc, SPEC.cutoff))
    original = refresh(
        neighbors.build_candidates(positions, cell, pbc, SPEC, skin=SKIN, capacity=capacity),
        jnp.asarray(positions),
        jnp.asarray(cell),
    )
    assert neighbors.count(graph) == neighbors.count(original)


@pytest.mark.parametrize("extra", [1, 2, 7])
def test_padding_changes_no_real_edge(moving, extra):
    positions, cell, pbc, capacity = moving
    num_atoms = len(positions) + extra
    roomy = Capacity(*(size + 64 * extra for size in capacity))
    candidates = neighbors.build_candidates(
        positions, cell, pbc, SPEC, skin=SKIN, capacity=roomy, num_atoms=num_atoms
    )
    graph = refresh(candidates, padded(positions, num_atoms), jnp.asarray(cell))
    assert not graph.overflow
    check_graph(graph, positions, cell, pbc)
    assert np.all(np.asarray(graph.centers)[~np.asarray(graph.mask)] == num_atoms - 1)


# The overflow bit.


def graph_with(moving, positions=None, cell=None, **changes):
    start, start_cell, pbc, capacity = moving
    candidates = neighbors.build_candidates(
        start, start_cell, pbc, SPEC, skin=SKIN, capacity=capacity._replace(**changes)
    )
    positions = start if positions is None else positions
    return refresh(candidates, jnp.asarray(positions), jnp.asarray(start_cell if cell is None else cell))


@pytest.mark.parametrize(("distance", "flagged"), [(0.0, False), (0.499, False), (0.502, True), (5.0, True)])
def test_moving_one_atom_beyond_half_the_skin_is_flagged(moving, distance, flagged):
    positions = moving[0].copy()
    positions[3] += distance * SKIN * np.array([0.0, 0.6, 0.8])
    assert bool(graph_with(moving, positions).overflow) is flagged


def test_translation_of_everything_counts_as_motion(moving):
    # Conservative: no pair changes, but the bit may be set. It must never be the other way round.
    graph = graph_with(moving, moving[0] + 0.3)
    assert bool(graph.overflow) is True


@pytest.mark.parametrize(("strain", "flagged"), [(0.001, False), (0.05, False), (0.5, True), (-0.5, True)])
def test_strain_is_flagged_when_it_can_bring_in_new_pairs(moving, strain, flagged):
    positions, cell, pbc, _ = moving
    factor = 1.0 + strain
    graph = graph_with(moving, positions * factor, cell * factor)
    assert bool(graph.overflow) is flagged
    if not flagged:
        check_graph(graph, positions * factor, cell * factor, pbc)


def test_cell_change_at_fixed_positions_is_flagged(moving):
    graph = graph_with(moving, cell=moving[1] @ np.diag([0.7, 1.0, 1.0]))
    assert bool(graph.overflow) is True


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_flagged(moving, value):
    positions = moving[0].copy()
    positions[0, 0] = value
    assert bool(graph_with(moving, positions).overflow) is True


@pytest.mark.parametrize("kind", ["edges", "bonds", "angles"])
def test_capacity_exactly_full_is_fine_and_one_less_is_flagged(moving, kind):
    positions, cell, pbc, _ = moving
    used = neighbors.count(graph_with(moving))[kind]
    assert used > 1
    full = graph_with(moving, **{kind: used})
    assert not full.overflow
    check_graph(full, positions, cell, pbc)
    less = graph_with(moving, **{kind: used - 1})
    assert less.overflow
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(less))


def test_everything_exactly_full_at_once(moving):
    positions, cell, pbc, capacity = moving
    used = neighbors.count(graph_with(moving))
    i, _, _ = neighbors.find_pairs(positions, cell, pbc, SPEC.cutoff + SKIN + neighbors.ROUNDING)
    graph = graph_with(moving, candidates=len(i), **used)
    assert not graph.overflow
    check_graph(graph, positions, cell, pbc)


def test_no_room_for_angles_at_all_is_flagged(moving):
    assert graph_with(moving, angles=0).overflow
    assert graph_with(moving, bonds=0, angles=0).overflow


def test_a_skin_of_zero_serves_the_positions_it_was_built_for(moving):
    positions, cell, pbc, capacity = moving
    candidates = neighbors.build_candidates(positions, cell, pbc, SPEC, skin=0.0, capacity=capacity)
    graph = refresh(candidates, jnp.asarray(positions), jnp.asarray(cell))
    assert not graph.overflow
    check_graph(graph, positions, cell, pbc)
    assert refresh(candidates, jnp.asarray(positions + 0.01), jnp.asarray(cell)).overflow


def test_what_rounding_moves_inside_is_among_the_candidates():
    # Closer than rounding may bring them, without setting the bit: the host's list must reach a little further.
    cutoff, cell = SPEC.cutoff, 20.0 * np.eye(3)
    start = np.array([[0.0, 0.0, 0.0], [cutoff + 1e-4, 0.0, 0.0]])
    moved = start - np.array([[0.0, 0.0, 0.0], [2e-4, 0.0, 0.0]])
    candidates = neighbors.build_candidates(start, cell, np.ones(3, bool), SPEC, skin=0.0)
    graph = refresh(candidates, jnp.asarray(moved), jnp.asarray(cell))
    assert not graph.overflow
    check_graph(graph, moved, cell, np.ones(3, bool))


def test_rounding_keeps_both_directions_of_a_pair_or_none():
    # Seen from its two atoms the same pair has lengths that differ in the last digit. Cutoffs in between would
    # keep one direction, and the forces of a conservative potential would not add up to zero.
    generator = np.random.default_rng(3)
    positions = generator.uniform(0, 30, (6, 3))
    cell = np.diag([4.1, 3.7, 5.3]) + 0.3 * generator.normal(size=(3, 3))
    candidates = neighbors.build_candidates(positions, cell, np.ones(3, bool), SPEC, skin=SKIN)
    i, j, S = (np.asarray(x)[np.asarray(candidates.mask)] for x in candidates[:3])
    squared = np.sum((positions[j] + S @ cell - positions[i]) ** 2, axis=1)
    near = np.sqrt(squared[np.sqrt(squared) < SPEC.cutoff])
    cutoffs = np.unique([np.nextafter(near, 0), near, np.nextafter(near, 9)])

    @jax.jit
    @jax.vmap
    def symmetric(cutoff):
        graph = neighbors.refresh(
            candidates._replace(cutoff=cutoff), jnp.asarray(positions), jnp.asarray(cell)
        )
        return jnp.all(graph.reverse[graph.reverse] == jnp.arange(len(graph.reverse)))

    assert np.all(symmetric(jnp.asarray(cutoffs)))


def test_small_strain_of_a_large_cell_is_not_motion(make_silicon):
    # Its far corner moves by more than skin/2, together with everything around it.
    positions, cell, pbc = geometry(make_silicon(3, rattle=0.0))
    deformation = np.eye(3) + 0.02 * np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    candidates = neighbors.build_candidates(positions, cell, pbc, GraphSpec(SPEC.cutoff), skin=SKIN)
    moved = positions @ deformation
    assert np.linalg.norm(moved - positions, axis=1).max() > 0.5 * SKIN
    graph = refresh(candidates, jnp.asarray(moved), jnp.asarray(cell @ deformation))
    assert not graph.overflow
    check_graph(graph, moved, cell @ deformation, pbc, GraphSpec(SPEC.cutoff))


def test_without_bonds_there_are_no_angles(moving):
    positions, cell, pbc, _ = moving
    spec = GraphSpec(SPEC.cutoff)
    candidates = neighbors.build_candidates(positions, cell, pbc, spec, skin=SKIN)
    assert neighbors.capacity_of(candidates)[2:] == (0, 0)
    graph = refresh(candidates, jnp.asarray(positions), jnp.asarray(cell))
    assert not graph.overflow
    assert graph.angles.shape == (0, 2)
    check_graph(graph, positions, cell, pbc, spec)


# Composition with JAX.


def test_batched_graphs_are_the_single_ones(shared):
    num_atoms, capacity = shared
    structures = [geometry(make()) for make in (tiny, triclinic, slab, isolated)]
    lists = [
        neighbors.build_candidates(*s, SPEC, skin=SKIN, capacity=capacity, num_atoms=num_atoms)
        for s in structures
    ]
    R = jnp.stack([padded(s[0], num_atoms) for s in structures])
    cells = jnp.stack([jnp.asarray(s[1]) for s in structures])
    batch = jax.jit(jax.vmap(neighbors.refresh))(jax.tree.map(lambda *x: jnp.stack(x), *lists), R, cells)
    for k, (candidates, structure) in enumerate(zip(lists, structures, strict=True)):
        graph = jax.tree.map(lambda leaf, k=k: leaf[k], batch)
        check_graph(graph, *structure)
        single = refresh(candidates, R[k], cells[k])
        jax.tree.map(np.testing.assert_array_equal, graph, single)


def test_one_trace_serves_structures_of_one_capacity(shared):
    num_atoms, capacity = shared
    traces = []

    @jax.jit
    def counted(candidates, positions, cell):
        traces.append(1)
        return neighbors.refresh(candidates, positions, cell)

    for make in CELLS:
        positions, cell, pbc = geometry(make())
        candidates = neighbors.build_candidates(
            positions, cell, pbc, SPEC, skin=SKIN, capacity=capacity, num_atoms=num_atoms
        )
        counted(candidates, padded(positions, num_atoms), jnp.asarray(cell))
    assert len(traces) == 1


def test_gradient_reaches_positions_through_vectors_only(moving):
    positions, cell, pbc, capacity = moving
    candidates = neighbors.build_candidates(positions, cell, pbc, SPEC, skin=SKIN, capacity=capacity)

    def total(R, h):
        graph = neighbors.refresh(candidates, R, h)
        v = neighbors.edge_vectors(graph, R, h)
        return jnp.sum(jnp.where(graph.mask[:, None], v, 0.0) ** 4)

    dR, dh = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.asarray(positions), jnp.asarray(cell))
    edges = expected_edges(positions, cell, pbc, SPEC.cutoff)
    i, j, S = edges[:, 0], edges[:, 1], edges[:, 2:]
    slope = 4 * (positions[j] + S @ cell - positions[i]) ** 3
    by_hand = np.zeros_like(positions)
    np.add.at(by_hand, j, slope)
    np.add.at(by_hand, i, -slope)
    np.testing.assert_allclose(dR, by_hand, rtol=1e-10, atol=1e-8)
    np.testing.assert_allclose(dh, S.T @ slope, rtol=1e-10, atol=1e-8)


def test_padded_vectors_are_constant_and_harmless(moving):
    positions, cell, _, _ = moving
    graph = graph_with(moving)
    vectors, pullback = jax.vjp(
        lambda R: neighbors.edge_vectors(graph, R, jnp.asarray(cell)), jnp.asarray(positions)
    )
    padding = np.asarray(vectors)[~np.asarray(graph.mask)]
    assert len(padding) > 0
    assert np.all(np.linalg.norm(padding, axis=1) > 1.0)
    (gradient,) = pullback(jnp.where(graph.mask[:, None], 0.0, 1.0) * jnp.ones_like(vectors))
    assert np.all(np.asarray(gradient) == 0.0)


def test_index_types_do_not_grow_with_x64(moving):
    positions, cell, pbc, capacity = moving
    candidates = neighbors.build_candidates(positions, cell, pbc, SPEC, skin=SKIN, capacity=capacity)
    graph = refresh(candidates, jnp.asarray(positions), jnp.asarray(cell))
    for leaf in jax.tree.leaves((candidates, graph)):
        assert leaf.dtype in (jnp.int32, jnp.float64, jnp.bool_)


def test_single_precision_without_x64(moving):
    positions, cell, pbc, capacity = moving
    with jax.enable_x64(False):
        candidates = neighbors.build_candidates(positions, cell, pbc, SPEC, skin=SKIN, capacity=capacity)
        graph = jax.jit(neighbors.refresh)(candidates, jnp.asarray(positions), jnp.asarray(cell))
        for leaf in jax.tree.leaves((candidates, graph)):
            assert leaf.dtype in (jnp.int32, jnp.float32, jnp.bool_)
        assert not graph.overflow
        check_graph(graph, positions, cell, pbc)


# Misuse on the host.


def test_what_makes_no_sense_is_refused(moving):
    positions, cell, pbc, capacity = moving
    with pytest.raises(ValueError, match="take neighbors.common_capacity"):
        neighbors.build_candidates(
            positions, cell, pbc, SPEC, skin=SKIN, capacity=capacity._replace(candidates=10)
        )
    with pytest.raises(ValueError, match="num_atoms=3 is too small"):
        neighbors.build_candidates(positions, cell, pbc, SPEC, num_atoms=3)
    with pytest.raises(ValueError, match="skin=-0.1"):
        neighbors.build_candidates(positions, cell, pbc, SPEC, skin=-0.1)
    with pytest.raises(ValueError, match="bond cutoff between zero and the cutoff"):
        neighbors.measure(positions, cell, pbc, GraphSpec(3.0, 4.0), SKIN)
    with pytest.raises(ValueError, match="no volume"):
        neighbors.find_pairs(positions, cell * np.array([[1.0], [1.0], [0.0]]), pbc, 3.0)
    with pytest.raises(ValueError, match="not finite"):
        neighbors.find_pairs(positions, cell * np.nan, pbc, 3.0)
    with pytest.raises(ValueError, match="call systems.with_neighbors"):
        neighbors.refresh(None, jnp.asarray(positions), jnp.asarray(cell))
    positions = positions.copy()
    positions[5, 1] = np.nan
    with pytest.raises(ValueError, match="position of atom 5 is not finite"):
        neighbors.find_pairs(positions, cell, pbc, 3.0)


def test_capacity_grows_only_where_it_must(moving):
    positions, cell, pbc, _ = moving
    tight = neighbors.measure(positions, cell, pbc, SPEC, SKIN, headroom=1.0)
    assert neighbors.grow(tight, positions, cell, pbc, SPEC, SKIN) == tight
    grown = neighbors.grow(tight._replace(edges=3), positions, cell, pbc, SPEC, SKIN)
    assert grown._replace(edges=tight.edges) == tight
    assert grown.edges >= tight.edges
    assert neighbors.common_capacity([Capacity(1, 5, 2, 0), Capacity(3, 4, 2, 1)]) == Capacity(3, 5, 2, 1)
