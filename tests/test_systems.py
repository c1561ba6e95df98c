"""Structures as pytrees: padding, layouts, pairs, minimum images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.geometry import find_mic
from hypothesis import given
from hypothesis import strategies as st

from bptt_relax import neighbors, systems
from bptt_relax.neighbors import Capacity, GraphSpec

SPEC = GraphSpec(cutoff=3.6, bond_cutoff=2.9)

refresh = jax.jit(neighbors.refresh)


@pytest.fixture(scope="module")
def structure(make_structure, make_silicon):
    return make_structure(make_silicon(1), name="seven")


def test_build_system_pads_with_nothing(structure):
    positions, system = systems.build_system(structure, 10)
    assert system.candidates is None
    np.testing.assert_array_equal(positions[:7], structure.positions)
    np.testing.assert_array_equal(system.mask, [True] * 7 + [False] * 3)
    np.testing.assert_array_equal(system.cell, structure.cell)
    np.testing.assert_array_equal(system.pbc, [True, True, True])
    for leaf in (positions, system.species, system.masses, system.free):
        assert leaf.shape[0] == 10
        assert not np.any(np.asarray(leaf[7:]))
    assert np.all(np.asarray(system.masses[:7]) == pytest.approx(28.085))


def test_build_system_types(structure):
    def kinds(tree):
        return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}

    assert kinds(systems.prepare(structure, SPEC)) == {"float64", "int32", "bool"}
    with jax.enable_x64(False):
        assert kinds(systems.prepare(structure, SPEC)) == {"float32", "int32", "bool"}


def test_constraints_come_along(make_structure, make_silicon):
    atoms = make_silicon(1)
    free = np.ones((7, 3), bool)
    free[2] = False
    free[4, 1] = False
    _, system = systems.build_system(make_structure(atoms, free=free), 8)
    np.testing.assert_array_equal(system.free[:7], free)
    assert not np.any(system.free[7])


def test_too_little_room_names_structure_and_numbers(structure):
    with pytest.raises(ValueError, match="structure seven has 7 atoms, num_atoms=5"):
        systems.build_system(structure, 5)


def test_layout_holds_every_structure(make_structure, make_silicon):
    structures = [
        make_structure(make_silicon(1, vacancy=False)),
        make_structure(make_silicon(1, strain=-0.1)),
    ]
    layout = systems.plan_layout(structures, SPEC)
    assert layout.num_atoms == 8
    shapes = set()
    for structure in structures:
        positions, system = systems.prepare(structure, SPEC, layout)
        assert not refresh(system.candidates, positions, system.cell).overflow
        shapes.add(tuple(leaf.shape for leaf in jax.tree.leaves((positions, system))))
    assert len(shapes) == 1, "structures of one layout must share one compilation"
    with pytest.raises(ValueError, match="at least one structure"):
        systems.plan_layout([], SPEC)


def test_neighbors_of_a_padded_system_are_those_of_the_bare_one(structure):
    layout = systems.plan_layout([structure], SPEC)
    _, bare = systems.prepare(structure, SPEC)
    _, padded = systems.prepare(structure, SPEC, systems.Layout(12, layout.capacity))
    assert padded.candidates.origin.shape == (12, 3)
    for name in ("centers", "neighbors", "images", "reverse"):
        ours, theirs = (
            np.asarray(getattr(s.candidates, name))[np.asarray(bare.candidates.mask)] for s in (padded, bare)
        )
        np.testing.assert_array_equal(ours, theirs)


def test_rebuild_moves_the_origin_and_keeps_what_fits(structure):
    positions, system = systems.prepare(structure, SPEC, skin=0.7)
    moved = positions + 0.5 * np.random.default_rng(0).normal(size=positions.shape)
    assert refresh(system.candidates, moved, system.cell).overflow
    again = systems.rebuild_neighbors(moved, system)
    graph = refresh(again.candidates, moved, again.cell)
    assert not graph.overflow
    np.testing.assert_array_equal(again.candidates.origin, moved)
    assert float(again.candidates.skin) == 0.7
    assert float(again.candidates.cutoff) == SPEC.cutoff
    assert float(again.candidates.bond_cutoff) == SPEC.bond_cutoff
    # Back home nothing is exceeded, so nothing may be recompiled.
    home = systems.rebuild_neighbors(positions, again)
    assert neighbors.capacity_of(home.candidates) == neighbors.capacity_of(again.candidates)


@pytest.mark.parametrize("kind", ["edges", "bonds", "angles"])
def test_rebuild_cures_every_exceeded_capacity(structure, kind):
    layout = systems.plan_layout([structure], SPEC)
    small = layout._replace(capacity=layout.capacity._replace(**{kind: 5}))
    positions, system = systems.prepare(structure, SPEC, small)
    assert refresh(system.candidates, positions, system.cell).overflow
    again = systems.rebuild_neighbors(positions, system)
    assert not refresh(again.candidates, positions, again.cell).overflow
    assert neighbors.capacity_of(again.candidates) == layout.capacity


def test_rebuild_never_grows_what_still_fits(structure):
    # Capacities the user chose, tight and no round numbers: growing them would recompile at every rebuild.
    positions, system = systems.prepare(structure, SPEC)
    counts = neighbors.count(refresh(system.candidates, positions, system.cell))
    tight = Capacity(neighbors.capacity_of(system.candidates).candidates, counts["edges"] + 1, 60, 300)
    tight_system = systems.with_neighbors(positions, system, SPEC, capacity=tight)
    again = systems.rebuild_neighbors(positions, tight_system)
    assert neighbors.capacity_of(again.candidates) == tight


def test_rebuild_needs_neighbors(structure):
    positions, system = systems.build_system(structure)
    with pytest.raises(ValueError, match="systems.with_neighbors first"):
        systems.rebuild_neighbors(positions, system)


def test_pair_is_index_matched(make_structure, make_silicon):
    start, end = make_silicon(1, rattle=0.1), make_silicon(1, rattle=0.0)
    layout = systems.plan_layout([make_structure(start), make_structure(end)], SPEC)._replace(num_atoms=9)
    pair = systems.prepare_pair(make_structure(start), make_structure(end), SPEC, layout)
    assert pair.initial.shape == pair.relaxed.shape == (9, 3)
    np.testing.assert_array_equal(pair.initial[:7], start.positions)
    np.testing.assert_array_equal(pair.relaxed[:7], end.positions)
    np.testing.assert_array_equal(pair.system.candidates.origin[:7], start.positions)

    end.numbers[3] = 32
    with pytest.raises(ValueError, match="structure broken: initial and relaxed differ"):
        systems.prepare_pair(make_structure(start, name="broken"), make_structure(end), SPEC)
    with pytest.raises(ValueError, match="7 and 6"):
        systems.prepare_pair(make_structure(start), make_structure(end[:6]), SPEC)


def test_systems_stack_into_a_batch(make_structure, make_silicon):
    structures = [make_structure(make_silicon(1, seed=seed)) for seed in range(3)]
    layout = systems.plan_layout(structures, SPEC)
    prepared = [systems.prepare(s, SPEC, layout) for s in structures]
    positions, system = jax.tree.map(lambda *x: jnp.stack(x), *prepared)
    overflow = jax.vmap(lambda R, s: refresh(s.candidates, R, s.cell).overflow)(positions, system)
    np.testing.assert_array_equal(overflow, [False] * 3)


# Minimum image.


@given(
    seed=st.integers(0, 2**32 - 1),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    skew=st.floats(0.0, 1.5),
)
def test_wrap_nearest_undoes_lattice_translations(seed, pbc, skew):
    generator = np.random.default_rng(seed)
    cell = np.diag(generator.uniform(4.0, 9.0, 3)) + skew * generator.uniform(-1, 1, (3, 3))
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    short = generator.normal(size=(5, 3))
    short *= 0.45 * heights.min() / np.linalg.norm(short, axis=1, keepdims=True)
    images = generator.integers(-4, 5, (5, 3)) * np.array(pbc)
    wrapped = systems.wrap_nearest(jnp.asarray(short + images @ cell), jnp.asarray(cell), jnp.asarray(pbc))
    np.testing.assert_allclose(wrapped, short, atol=1e-12)
    np.testing.assert_allclose(wrapped, find_mic(short + images @ cell, cell, pbc)[0], atol=1e-10)


def test_wrap_nearest_passes_gradients_through():
    cell = jnp.asarray(bulk("Si", cubic=True).cell.array)
    displacement = jnp.array([[5.2, 0.1, -5.3], [0.0, 0.0, 0.0]])
    pbc = jnp.array([True, True, False])
    jacobian = jax.jacobian(lambda d: systems.wrap_nearest(d, cell, pbc))(displacement)
    np.testing.assert_allclose(jacobian.reshape(6, 6), np.eye(6), atol=1e-12)
    np.testing.assert_allclose(
        systems.wrap_nearest(displacement, cell, pbc)[0], [5.2 - 5.43, 0.1, -5.3], atol=1e-12
    )
