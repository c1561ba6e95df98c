"""jax-md's NequIP on our edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import neighbors, potentials, systems
from bptt_relax.potentials import nequip

# Not yet seen to pass as a whole on a quiet machine; see the closing note of the session that wrote it.
pytestmark = pytest.mark.slow

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
    return nequip.build(SMALL, name="small nequip")


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


@pytest.mark.parametrize("channels", [(3, 2), (4, 3, 2)])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_side_by_side_it_is_the_same_function_of_the_same_parameters(
    channels, num_layers, make_silicon, make_structure
):
    config = SMALL._replace(channels=channels, max_harmonic=len(channels) - 1, num_layers=num_layers)
    theirs, ours = nequip.build(config), nequip.build(config, side_by_side=True)
    params = theirs.init(jax.random.key(1))
    atoms = make_silicon(1)
    atoms.numbers[2] = 8
    positions, system = systems.prepare(make_structure(atoms), theirs.graph, LAYOUT)
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    direction = jax.random.normal(jax.random.key(2), positions.shape)

    def outcome(potential):
        def work(params):
            prediction = potential.apply(params, positions, system, graph)
            return jnp.sum(prediction.forces * direction), prediction

        return jax.jit(jax.grad(work, has_aux=True))(params)

    (gradient, expected), (our_gradient, found) = outcome(theirs), outcome(ours)
    # Both round the normalization of the activation, each in its way.
    np.testing.assert_allclose(found.energy, expected.energy, rtol=1e-5)
    size = np.max(np.abs(expected.forces))
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-5 * size)
    np.testing.assert_allclose(found.stress, expected.stress, atol=1e-5 * np.max(np.abs(expected.stress)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.max(np.abs(b)) + 1e-12),
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
    assert set(usual.elements) == {5, 6, 8, 13, 14, 15, 32, 33}
    may_train = potentials.trainable(jax.eval_shape(usual.init, jax.random.key(0)))
    assert not may_train.pop("reference_energies")
    assert all(jax.tree.leaves(may_train))
