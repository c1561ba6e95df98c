"""Nequix: symmetries, derivatives and padding of a small one; loading of the published ones."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from bptt_relax import analysis, neighbors, potentials, systems
from bptt_relax.models import nequix, pretrained
from bptt_relax.models.nequix import weights as nequix_weights

SMALL = nequix.Config(
    species=(8, 14),
    channels=(4, 3, 2),
    max_harmonic=2,
    num_layers=2,
    radial_width=6,
    cutoff=4.0,
    scale=0.5,
    shift=-1.0,
)
LAYOUT = systems.Layout(8, neighbors.Capacity(1536, 512, 0, 0))
PUBLISHED = Path(__file__).parents[3] / "shared" / "weights"


@pytest.fixture(scope="module")
def potential():
    return nequix.build(SMALL, name="small nequix")


@pytest.fixture(scope="module")
def params(potential):
    params = potential.init(jax.random.key(0))
    return {**params, "reference_energies": jnp.array([-2.0, -5.0])}


@pytest.fixture(scope="module")
def predict(potential):
    @jax.jit
    def predict(params, positions, system):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        return potential.apply(params, positions, system, graph), graph.overflow

    return predict


@pytest.fixture(scope="module")
def oxidized(make_silicon):
    atoms = make_silicon(1)
    atoms.numbers[2] = 8
    return atoms


def test_a_small_one_keeps_what_relaxations_rely_on(potential, params, oxidized, make_structure):
    checks = analysis.check_potential(
        potential, params, *systems.prepare(make_structure(oxidized), potential.graph)
    )
    assert {c.name for c in checks} >= {"rotation", "permutation", "smooth at the cutoff", "stale neighbors"}
    assert [c for c in checks if c.passed is False] == []


def test_gradients_of_forces_are_differences_and_the_lean_ones_the_same(
    potential, params, oxidized, make_structure
):
    positions, system = systems.prepare(make_structure(oxidized), potential.graph, LAYOUT)
    rng = np.random.default_rng(5)
    weights = jnp.asarray(rng.normal(size=(8, 3)))

    def value_and_gradient(apply):
        def value(params, positions):
            graph = neighbors.refresh(system.candidates, positions, system.cell)
            prediction = apply(params, positions, system, graph)
            return jnp.sum(weights * prediction.forces) + prediction.energy

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1)))

    plain, lean = (value_and_gradient(apply) for apply in (potential.apply, potential.apply_lean))
    (_, gradient), (_, other) = plain(params, positions), lean(params, positions)
    for a, b in zip(*map(jax.tree.leaves, (gradient, other)), strict=True):
        assert bool(jnp.all(jnp.isfinite(a)))
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-10)

    point = (params, positions)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), point)
    slope = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))

    def moved(step):
        return float(plain(*jax.tree.map(lambda x, d: x + step * d, point, direction))[0])

    np.testing.assert_allclose(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-6)


def test_padding_changes_nothing(potential, params, oxidized, make_structure, predict):
    structure = make_structure(oxidized)
    bare, _ = predict(params, *systems.prepare(structure, potential.graph))
    padded, _ = predict(params, *systems.prepare(structure, potential.graph, LAYOUT))
    np.testing.assert_allclose(padded.energy, bare.energy, atol=1e-12)
    np.testing.assert_allclose(padded.forces[:7], bare.forces, atol=1e-12)
    np.testing.assert_array_equal(padded.forces[7:], 0.0)
    np.testing.assert_allclose(padded.stress, bare.stress, atol=1e-12)


def test_an_isolated_atom_feels_nothing(potential, params, make_structure, predict):
    atoms = Atoms("Si", cell=20 * np.eye(3), pbc=True)
    prediction, _ = predict(params, *systems.prepare(make_structure(atoms), potential.graph, LAYOUT))
    assert np.isfinite(prediction.energy)
    np.testing.assert_array_equal(prediction.forces, 0.0)
    np.testing.assert_array_equal(prediction.stress, 0.0)


def test_an_element_it_lacks_is_never_taken_for_another(potential, params, make_structure, predict):
    atoms = bulk("Ge", cubic=True)
    assert potential.elements == (8, 14)
    prediction, _ = predict(params, *systems.prepare(make_structure(atoms), potential.graph, LAYOUT))
    assert np.isnan(prediction.energy)
    assert np.all(np.isnan(prediction.forces))


def test_single_precision_agrees(potential, params, oxidized, make_structure, predict):
    structure = make_structure(oxidized)
    expected, _ = predict(params, *systems.prepare(structure, potential.graph, LAYOUT))
    with jax.enable_x64(False):
        single = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float32), params)
        prediction, _ = predict(single, *systems.prepare(structure, potential.graph, LAYOUT))
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(prediction)} == {"float32"}
    np.testing.assert_allclose(prediction.energy, expected.energy, rtol=1e-5)
    np.testing.assert_allclose(prediction.forces, expected.forces, atol=1e-4)


def test_reference_energies_do_not_train_and_constants_are_no_parameters(potential, params):
    may_train = potentials.trainable(params)
    assert not may_train["reference_energies"]
    del may_train["reference_energies"]
    assert all(jax.tree.leaves(may_train))
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == jax.tree.map(jnp.shape, nequix.build(SMALL._replace(scale=9.0)).init(jax.random.key(1)))


@pytest.mark.parametrize("name", ["nequix-mp-1", "nequix-oam-1"])
def test_published_files_load_and_go_back(name, tmp_path, monkeypatch):
    path = PUBLISHED / f"{name}.nqx"
    if not path.exists():
        pytest.skip("the published nequix files are not on this machine")
    monkeypatch.setenv("BPTT_RELAX_CACHE", str(tmp_path))
    potential, params = pretrained.load(name, source=path)
    assert sum(x.size for x in jax.tree.leaves(params)) == 707_658
    assert len(potential.elements) == 89
    arguments, arrays = nequix_weights.read(path.read_bytes(), name)
    config = nequix_weights.read_config(arguments, name)
    assert potential.elements == config.species
    back = nequix_weights.to_published(params, config)
    assert list(back) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)
    again, rewritten = nequix_weights.read(nequix_weights.write(arguments, back), "rewritten")
    assert again == arguments
    assert all(np.array_equal(rewritten[key], arrays[key]) for key in arrays)
