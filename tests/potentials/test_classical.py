"""Stillinger-Weber: against jax-md, against a plain sum over neighbors, and every derivative against differences."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from bptt_relax import neighbors, potentials, systems
from bptt_relax.potentials.classical import SILICON, SILICON_CUTOFF

POTENTIAL = potentials.stillinger_weber()
PARAMS = tuple(SILICON)
# One padded size for all small cells: they share their compilations, which are most of what these tests cost.
SMALL = systems.Layout(8, neighbors.Capacity(768, 256, 256, 2048))


@jax.jit
def predict(params, positions, system):
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    return POTENTIAL.apply(params, positions, system, graph), graph.overflow


def energy(params, positions, system):
    return predict(params, positions, system)[0].energy


energy_gradient = jax.jit(jax.grad(energy))


@pytest.fixture(scope="module")
def params():
    return POTENTIAL.init(jax.random.key(0))


@pytest.fixture(scope="module")
def strained(make_structure, make_silicon):
    """63 atoms, wide enough for jax-md's minimum image."""
    return systems.prepare(make_structure(make_silicon(2)), POTENTIAL.graph)


@pytest.fixture(scope="module")
def small(make_structure, make_silicon):
    """7 atoms in a cell smaller than twice the cutoff."""
    return systems.prepare(make_structure(make_silicon(1)), POTENTIAL.graph, SMALL)


def plain_energy(atoms: Atoms, sigma, A, B, lam, gamma, epsilon, cutoff=SILICON_CUTOFF) -> float:
    """The formula of the paper, summed in Python over ASE's neighbors."""
    i, j, D, d = neighbor_list("ijDd", atoms, cutoff)
    total = 0.0
    for r in d / sigma:
        total += 0.5 * A * (B * r**-4 - 1.0) * np.exp(1.0 / (r - cutoff / sigma))
    for atom in range(len(atoms)):
        around = np.flatnonzero(i == atom)
        for a, b in itertools.combinations(around, 2):
            cosine = D[a] @ D[b] / (d[a] * d[b])
            decay = gamma / (d[a] / sigma - cutoff / sigma) + gamma / (d[b] / sigma - cutoff / sigma)
            total += lam * np.exp(decay) * (cosine + 1.0 / 3.0) ** 2
    return epsilon * total


def five_point(function, x: float, step: float):
    """Central difference with an error of the fourth order."""
    values = [function(x + k * step) for k in (-2, -1, 1, 2)]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


# Values.


def test_cohesive_energy_of_diamond(make_structure, params):
    # A and B were chosen so that the pair term is -epsilon at its minimum: four bonds shared by two.
    atoms = bulk("Si", a=2.0951 * 2 ** (1 / 6) * 4 / np.sqrt(3))
    prediction, overflow = predict(params, *systems.prepare(make_structure(atoms), POTENTIAL.graph, SMALL))
    assert not overflow
    np.testing.assert_allclose(prediction.energy / 2, -2 * SILICON["epsilon"], rtol=1e-6)
    np.testing.assert_allclose(prediction.forces, 0.0, atol=1e-10)
    np.testing.assert_allclose(prediction.stress, 0.0, atol=1e-5)


def cells(make_silicon) -> dict[str, Atoms]:
    one = Atoms("Si", cell=[[2.6, 0.1, 0.0], [0.4, 2.5, 0.2], [0.0, -0.3, 2.7]], pbc=True)
    left = make_silicon(1)
    left.set_cell(left.cell.array[[1, 0, 2]])
    wire = make_silicon(1)
    wire.pbc = [False, True, False]
    cluster = make_silicon(1)
    cluster.pbc = False
    scattered = make_silicon(1)
    scattered.positions += np.random.default_rng(1).integers(-3, 4, (7, 3)) @ scattered.cell.array
    return {
        "one atom": one,
        "vacancy": make_silicon(1),
        "left-handed": left,
        "wire": wire,
        "cluster": cluster,
        "scattered": scattered,
    }


@pytest.mark.parametrize("name", ["one atom", "vacancy", "left-handed", "wire", "cluster", "scattered"])
def test_energy_is_the_plain_sum(make_silicon, make_structure, params, name):
    atoms = cells(make_silicon)[name]
    prediction, overflow = predict(params, *systems.prepare(make_structure(atoms), POTENTIAL.graph, SMALL))
    assert not overflow
    # jax-md adds 1e-7 to the length of vectors when it takes a cosine.
    np.testing.assert_allclose(prediction.energy, plain_energy(atoms, **SILICON), rtol=1e-7)


def test_energy_and_forces_are_those_of_jax_md(strained, params):
    jax_md_energy = pytest.importorskip("jax_md.energy")
    jax_md_space = pytest.importorskip("jax_md.space")
    positions, system = strained
    displacement, _ = jax_md_space.periodic_general(system.cell.T, fractional_coordinates=False)
    theirs = jax_md_energy.stillinger_weber(displacement)
    # Their energy broadcasts a scalar against an array; that is theirs to write.
    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value, gradient = jax.jit(jax.value_and_grad(theirs))(positions)
    prediction, _ = predict(params, positions, system)
    np.testing.assert_allclose(prediction.energy, value, rtol=1e-12)
    np.testing.assert_allclose(prediction.forces, -gradient, atol=1e-9)


def test_small_cell_is_its_supercell(make_silicon, make_structure, params):
    repeat = (1, 2, 3)
    atoms = make_silicon(1)
    one, _ = predict(params, *systems.prepare(make_structure(atoms), POTENTIAL.graph, SMALL))
    positions, system = systems.prepare(make_structure(atoms.repeat(repeat)), POTENTIAL.graph)
    many, overflow = predict(params, positions, system)
    assert not overflow
    copies = int(np.prod(repeat))
    np.testing.assert_allclose(many.energy, copies * one.energy, rtol=1e-12)
    np.testing.assert_allclose(many.forces, np.tile(one.forces[:7], (copies, 1)), atol=1e-11)
    np.testing.assert_allclose(many.stress, one.stress, atol=1e-12)


# First derivatives.


def test_forces_are_minus_the_slope(small, params):
    positions, system = small
    forces = predict(params, positions, system)[0].forces
    for atom, axis in [(0, 0), (3, 1), (6, 2)]:
        moved = lambda x, at=(atom, axis): energy(params, positions.at[at].set(x), system)  # noqa: E731
        slope = five_point(moved, float(positions[atom, axis]), 1e-3)
        np.testing.assert_allclose(forces[atom, axis], -slope, atol=1e-8)
    np.testing.assert_allclose(jnp.sum(forces, axis=0), 0.0, atol=1e-12)


def test_stress_is_the_slope_under_strain(small, params):
    positions, system = small
    stress = predict(params, positions, system)[0].stress
    volume = abs(np.linalg.det(np.asarray(system.cell)))
    for a, b in [(0, 0), (1, 2), (0, 1)]:

        def strain(x, a=a, b=b):
            deformation = jnp.eye(3).at[a, b].add(x / 2).at[b, a].add(x / 2)
            return energy(params, positions @ deformation, system._replace(cell=system.cell @ deformation))

        np.testing.assert_allclose(stress[a, b], five_point(strain, 0.0, 1e-4) / volume, atol=1e-9)


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("cell", ["strained", "small"])
def test_parameter_gradients(request, params, cell, name):
    positions, system = request.getfixturevalue(cell)
    gradient = energy_gradient(params, positions, system)[name]
    changed = lambda x: energy({**params, name: jnp.asarray(x)}, positions, system)  # noqa: E731
    difference = five_point(changed, SILICON[name], 1e-3 * SILICON[name])
    np.testing.assert_allclose(gradient, difference, rtol=1e-8, atol=1e-8)


# Second derivatives: what training through forces needs.


@pytest.fixture(scope="module")
def mixed():
    """d/dtheta of a fixed combination of force components, reverse over reverse."""
    weights = jnp.asarray(np.random.default_rng(5).normal(size=(8, 3)))

    def combined(params, positions, system, apply):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        return jnp.sum(weights * apply(params, positions, system, graph).forces)

    value = jax.jit(lambda *args: combined(*args, POTENTIAL.apply))
    slopes = {
        "apply": jax.jit(jax.grad(lambda *args: combined(*args, POTENTIAL.apply), argnums=(0, 1))),
        "apply_lean": jax.jit(jax.grad(lambda *args: combined(*args, POTENTIAL.apply_lean), argnums=(0, 1))),
    }
    return value, slopes


@pytest.mark.parametrize("how", ["apply", "apply_lean"])
def test_mixed_second_derivatives(small, params, mixed, how):
    positions, system = small
    value, slopes = mixed
    by_params, by_positions = slopes[how](params, positions, system)
    for name in PARAMS:
        changed = lambda x, name=name: value({**params, name: jnp.asarray(x)}, positions, system)  # noqa: E731
        difference = five_point(changed, SILICON[name], 1e-3 * SILICON[name])
        np.testing.assert_allclose(by_params[name], difference, rtol=1e-7, atol=1e-7, err_msg=name)
    for atom, axis in [(0, 0), (4, 2)]:
        moved = lambda x, at=(atom, axis): value(params, positions.at[at].set(x), system)  # noqa: E731
        difference = five_point(moved, float(positions[atom, axis]), 1e-3)
        np.testing.assert_allclose(by_positions[atom, axis], difference, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("which", ["gradient", "hessian"])
def test_derivatives_are_finite_where_terms_vanish(make_structure, params, which):
    """An isolated atom, a dimer at, just inside and just outside the cutoff, and a straight line of three."""
    lines = [[0.0, 99.0, 199.0]]
    lines += [
        [0.0, SILICON_CUTOFF * factor, 99.0] for factor in (1 - 1e-2, 1 - 1e-4, 1 - 1e-9, 1.0, 1 + 1e-9)
    ]
    lines += [[0.0, 2.35, 4.70]]
    for line in lines:
        positions = np.array([[x, 0.0, 0.0] for x in line])
        atoms = Atoms("Si3", cell=300 * np.eye(3), pbc=True, positions=positions)
        R, system = systems.prepare(make_structure(atoms), POTENTIAL.graph, SMALL)
        derivative = _first if which == "gradient" else _second
        for leaf in jax.tree.leaves(derivative(params, R, system)):
            assert np.all(np.isfinite(leaf)), line


@jax.jit
def _first(params, positions, system):
    return jax.grad(energy, argnums=(0, 1))(params, positions, system), predict(params, positions, system)[0]


@jax.jit
def _second(params, positions, system):
    def total(params, positions):
        prediction, _ = predict(params, positions, system)
        return jnp.sum(prediction.forces**2) + jnp.sum(prediction.stress**2)

    return jax.grad(total, argnums=(0, 1))(params, positions)


def test_isolated_atom_feels_nothing(make_structure, params):
    atoms = Atoms("Si", cell=20 * np.eye(3), pbc=True)
    prediction, overflow = predict(params, *systems.prepare(make_structure(atoms), POTENTIAL.graph, SMALL))
    assert not overflow
    for leaf in jax.tree.leaves(prediction):
        assert np.all(np.asarray(leaf) == 0.0)


# What must not matter.


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_rotation_translation_images_and_order_do_not_matter(make_silicon, make_structure, params, seed):
    atoms = make_silicon(1, rattle=0.2)
    base, _ = predict(params, *systems.prepare(make_structure(atoms), POTENTIAL.graph, SMALL))
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    order = generator.permutation(len(atoms))
    wraps = generator.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    other = atoms[order]
    other.positions = (other.positions + wraps) @ rotation + generator.uniform(-9, 9, 3)
    other.cell = atoms.cell.array @ rotation
    prediction, overflow = predict(params, *systems.prepare(make_structure(other), POTENTIAL.graph, SMALL))
    assert not overflow
    np.testing.assert_allclose(prediction.energy, base.energy, rtol=1e-12)
    np.testing.assert_allclose(prediction.forces[:7], (base.forces[:7] @ rotation)[order], atol=1e-10)
    np.testing.assert_allclose(prediction.stress, rotation.T @ base.stress @ rotation, atol=1e-11)


def test_padding_changes_nothing(make_silicon, make_structure, params):
    structure = make_structure(make_silicon(1))
    layout = systems.plan_layout([structure], POTENTIAL.graph)
    assert SMALL.num_atoms > layout.num_atoms
    assert all(more > size for more, size in zip(SMALL.capacity, layout.capacity, strict=True))
    bare, padded = (systems.prepare(structure, POTENTIAL.graph, x) for x in (layout, SMALL))
    expected, found = (predict(params, *x)[0] for x in (bare, padded))
    np.testing.assert_allclose(found.energy, expected.energy, atol=1e-12)
    np.testing.assert_allclose(found.forces[:7], expected.forces, atol=1e-12)
    np.testing.assert_array_equal(found.forces[7:], 0.0)
    np.testing.assert_allclose(found.stress, expected.stress, atol=1e-12)
    for ours, theirs in zip(
        *(jax.tree.leaves(energy_gradient(params, *x)) for x in (padded, bare)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    for derivative in (_first, _second):
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(derivative(params, *padded)))


def test_single_precision_agrees(make_silicon, make_structure, params):
    structure = make_structure(make_silicon(1))
    expected, _ = predict(params, *systems.prepare(structure, POTENTIAL.graph, SMALL))
    with jax.enable_x64(False):
        single = POTENTIAL.init(jax.random.key(0))
        prediction, overflow = predict(single, *systems.prepare(structure, POTENTIAL.graph, SMALL))
        assert not overflow
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(prediction)} == {"float32"}
    np.testing.assert_allclose(prediction.energy, expected.energy, rtol=1e-5)
    np.testing.assert_allclose(prediction.forces, expected.forces, atol=1e-4)


def test_single_precision_is_smooth_at_the_cutoff(make_structure):
    """r/sigma - cutoff/sigma rounds to zero or beyond before r reaches the cutoff, and 1/0 is not far."""
    with jax.enable_x64(False):
        single = POTENTIAL.init(jax.random.key(0))
        for steps in range(-4, 5):
            r = float(np.float32(SILICON_CUTOFF)) * (1 + steps * 6e-8)
            atoms = Atoms("Si3", cell=300 * np.eye(3), pbc=True, positions=[[0, 0, 0], [r, 0, 0], [0, r, 0]])
            prediction, _ = predict(single, *systems.prepare(make_structure(atoms), POTENTIAL.graph, SMALL))
            assert all(np.all(np.asarray(leaf) == 0.0) for leaf in jax.tree.leaves(prediction)), r


# The list of the start serves the whole relaxation, gradients included.


def test_relaxing_on_one_list_is_relaxing_on_lists_rebuilt_at_every_step(
    make_silicon, make_structure, params
):
    steps, step_size = 12, 0.02
    structure = make_structure(make_silicon(1, rattle=0.15, strain=0.05))
    positions, system = systems.prepare(structure, POTENTIAL.graph, skin=2.0)
    capacity = neighbors.capacity_of(system.candidates)

    def relax(params, positions, lists):
        """Steepest descent; returns the end, the overflow bits and the numbers of edges on the way."""

        def step(R, candidates):
            graph = neighbors.refresh(candidates, R, system.cell)
            forces = POTENTIAL.apply(params, R, system, graph).forces
            return R + step_size * forces, (R, graph.overflow, jnp.sum(graph.mask))

        return jax.lax.scan(step, positions, lists)

    def loss(params, positions, lists):
        end, along = relax(params, positions, lists)
        return jnp.sum(jnp.sin(end)), (end, along)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    kept = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), system.candidates)
    by_kept, (end_kept, (path, overflow, edges)) = gradient(params, positions, kept)
    assert not np.any(overflow)
    assert len(np.unique(edges)) > 2, "no pair crossed the cutoff: this test would pass on a frozen list"

    rebuilt = [
        systems.with_neighbors(R, system, POTENTIAL.graph, skin=2.0, capacity=capacity).candidates
        for R in path
    ]
    by_rebuilt, (end_rebuilt, _) = gradient(
        params, positions, jax.tree.map(lambda *x: jnp.stack(x), *rebuilt)
    )
    np.testing.assert_allclose(end_kept, end_rebuilt, atol=1e-13)
    for ours, theirs in zip(jax.tree.leaves(by_kept), jax.tree.leaves(by_rebuilt), strict=True):
        assert np.all(np.isfinite(ours))
        assert np.linalg.norm(theirs) > 1e-3
        np.testing.assert_allclose(ours, theirs, atol=1e-12)

    # And it is the derivative of what was computed.
    value = jax.jit(lambda params: loss(params, positions, kept)[0])
    for name in ("sigma", "gamma"):
        changed = lambda x, name=name: value({**params, name: jnp.asarray(x)})  # noqa: E731
        difference = five_point(changed, SILICON[name], 3e-4 * SILICON[name])
        np.testing.assert_allclose(by_kept[0][name], difference, rtol=1e-6)


def test_starting_values_can_be_given():
    params = potentials.stillinger_weber({**SILICON, "lam": 31.5}).init(jax.random.key(0))
    assert params["lam"] == 31.5
    assert set(params) == set(SILICON)
    assert POTENTIAL.cutoff == SILICON_CUTOFF
    assert POTENTIAL.conservative
