"""jax-md's NequIP on our edges."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from bptt_relax import neighbors, potentials, systems
from bptt_relax.equivariant import layers
from bptt_relax.models import nequip, pretrained

SMALL = nequip.Config(
    species=(8, 14),
    channels=(3, 2),
    max_harmonic=1,
    num_layers=1,
    radial_width=4,
    cutoff=4.0,
    num_neighbors=4.0,
)
LAYOUT = systems.Layout(9, neighbors.Capacity(1536, 512, 0, 0))


@pytest.fixture(scope="module")
def potential():
    return nequip.build(SMALL, name="small nequip", channels_last=True)


@pytest.fixture(scope="module")
def params(potential):
    return {**potential.init(jax.random.key(0)), "reference_energies": jnp.array([-2.0, -5.0])}


@pytest.fixture(scope="module")
def predict(potential):
    @jax.jit
    def predict(params, positions, system):
        return potential.apply(
            params, positions, system, neighbors.refresh(system.candidates, positions, system.cell)
        )

    return predict


def test_every_image_counts(potential, params, make_silicon, make_structure, predict):
    """A cell narrower than twice the cutoff is what two of them are, and padding is nothing."""
    atoms = make_silicon(1)
    atoms.numbers[2] = 8
    small = predict(params, *systems.prepare(make_structure(atoms), potential.graph, LAYOUT))
    double = predict(params, *systems.prepare(make_structure(atoms.repeat((2, 1, 1))), potential.graph))
    np.testing.assert_allclose(double.energy, 2 * small.energy, rtol=1e-10)
    np.testing.assert_allclose(double.forces[:7], small.forces[:7], atol=1e-9)
    np.testing.assert_allclose(double.stress, small.stress, atol=1e-10)
    np.testing.assert_array_equal(small.forces[7:], 0.0)
    assert np.max(np.abs(small.forces)) > 1e-4


@pytest.mark.slow  # a minute or two: the derivatives of jax-md's code are large programs
@pytest.mark.parametrize(("channels", "num_layers"), [((3, 2), 1), ((2, 1, 1), 3)])
def test_with_channels_last_it_is_the_same_function_of_the_same_parameters(
    channels, num_layers, make_silicon, make_structure, monkeypatch
):
    """Energy, forces, stress, and what training needs: the derivative of forces by every parameter."""
    # Weights are trained with the norm of single precision; here e3nn finds it in double.
    one = jnp.ones(())
    norm = float(jax.nn.silu(one) / e3nn.normalize_function(jax.nn.silu)(one))
    monkeypatch.setattr(layers, "SILU_NORM", norm)
    config = SMALL._replace(channels=channels, max_harmonic=len(channels) - 1, num_layers=num_layers)
    theirs, ours = nequip.build(config), nequip.build(config, channels_last=True)
    params = theirs.init(jax.random.key(1))
    atoms = make_silicon(1)
    atoms.numbers[2] = 8
    positions, system = systems.prepare(make_structure(atoms), theirs.graph, LAYOUT)
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    direction = jax.random.normal(jax.random.key(2), positions.shape)

    def outcome(apply):
        def work(params):
            prediction = apply(params, positions, system, graph)
            return jnp.sum(prediction.forces * direction), prediction

        # Compiling is all it costs.
        return jax.jit(jax.grad(work, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})(
            params
        )

    (gradient, expected), (our_gradient, found) = outcome(theirs.apply_lean), outcome(ours.apply_lean)
    np.testing.assert_allclose(found.energy, expected.energy, rtol=1e-9)
    size = np.max(np.abs(expected.forces))
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-9 * size)
    np.testing.assert_allclose(found.stress, expected.stress, atol=1e-9 * np.max(np.abs(expected.stress)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8 * np.max(np.abs(b)) + 1e-12),
        our_gradient,
        gradient,
    )


def test_an_element_it_lacks_is_never_taken_for_another(
    potential, params, make_silicon, make_structure, predict
):
    atoms = make_silicon(1)
    atoms.numbers[:] = 32
    prediction = predict(params, *systems.prepare(make_structure(atoms), potential.graph, LAYOUT))
    assert np.isnan(prediction.energy)


def test_the_usual_network_covers_the_bundled_elements_and_its_reference_energies_stay():
    usual = nequip.build()
    assert set(usual.elements) >= {5, 6, 8, 13, 14, 15, 32, 33}
    may_train = potentials.trainable(jax.eval_shape(usual.init, jax.random.key(0)))
    assert not may_train.pop("reference_energies")
    assert all(jax.tree.leaves(may_train))


@pytest.fixture(scope="module")
def bundled():
    """The bundled model's parameters, and its energy and forces in one program."""
    potential, params = pretrained.load("nequip-silicon")
    layout = systems.Layout(9, neighbors.Capacity(512, 128, 0, 0))

    @jax.jit
    def compiled(positions, system):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        return potential.apply(params, positions, system, graph)

    def predict(structure, move=0.0):
        positions, system = systems.prepare(structure, potential.graph, layout)
        return compiled(positions + move, system)

    return predict


def test_the_bundled_file_is_the_registered_one():
    assert pretrained.verify("nequip-silicon").passed


def test_bundled_forces_are_the_slope_of_the_energy_and_draw_atoms_back(
    bundled, make_silicon, make_structure
):
    """Energies around diamond silicon rise; how much a small move changes them is what the forces say."""
    atoms = make_silicon(1)
    forces = bundled(make_structure(atoms)).forces
    direction = np.zeros((9, 3))
    direction[: len(atoms)] = np.random.default_rng(0).normal(size=(len(atoms), 3))
    below, above = (float(bundled(make_structure(atoms), step * direction).energy) for step in (-1e-4, 1e-4))
    assert float(np.sum(forces * direction)) == pytest.approx(-(above - below) / 2e-4, rel=1e-5)

    crystal = bulk("Si", cubic=True, a=5.47)
    still = bundled(make_structure(crystal))
    np.testing.assert_allclose(still.forces, 0.0, atol=1e-5)
    crystal.positions[0] += [0.05, 0.0, 0.0]
    pulled = bundled(make_structure(crystal))
    # One atom on a spring of some 13 eV/angstrom^2, as perturbation theory and experiment have it.
    assert -1.0 < pulled.forces[0, 0] < -0.4
    assert pulled.energy > still.energy


def test_to_the_bundled_model_every_element_is_silicon_until_it_is_tuned(
    bundled, make_silicon, make_structure
):
    atoms = make_silicon(1)
    silicon = bundled(make_structure(atoms))
    for z in (5, 33, 50):
        atoms.numbers[1] = z
        doped = bundled(make_structure(atoms))
        np.testing.assert_allclose(doped.energy, silicon.energy, rtol=1e-6)
        np.testing.assert_allclose(doped.forces, silicon.forces, atol=1e-6)
