"""Errors of forces and energies: masked, differentiable at zero, and what their formulas say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import losses
from bptt_relax.systems import System


@pytest.fixture
def system():
    """Three atoms and a padded one; the second may move along x only."""
    free = np.ones((4, 3), bool)
    free[1, 1:] = False
    free[3] = False
    mask = jnp.arange(4) < 3
    return System(
        species=jnp.where(mask, 14, 0),
        masses=jnp.where(mask, 28.0, 0.0),
        cell=jnp.eye(3),
        pbc=jnp.zeros(3, bool),
        mask=mask,
        free=jnp.asarray(free),
    )


@pytest.fixture
def forces():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(4, 3)))


def free_errors(system, forces):
    return np.asarray(forces[0] - forces[1])[np.asarray(system.free)]


def test_means_over_free_components(system, forces):
    errors = free_errors(system, forces)
    assert len(errors) == 7
    assert float(losses.force_mse(*forces, system)) == pytest.approx(np.mean(errors**2))
    assert float(losses.force_mae(*forces, system)) == pytest.approx(np.mean(np.abs(errors)))


def test_huber(system, forces):
    errors, delta = np.abs(free_errors(system, forces)), 0.5
    expected = np.where(errors < delta, 0.5 * errors**2, delta * (errors - 0.5 * delta))
    assert np.any(errors < delta)
    assert np.any(errors > delta)
    assert float(losses.force_huber(*forces, system, delta=delta)) == pytest.approx(np.mean(expected))


def test_force_distance_is_a_weighted_mean_of_lengths_and_has_a_gradient_at_zero(system, forces):
    lengths = np.linalg.norm(np.where(system.free, forces[0] - forces[1], 0.0), axis=1)[:3]
    assert float(losses.force_distance(*forces, system)) == pytest.approx(lengths.mean())
    weights = jnp.asarray([2.0, 1.0, 10.0, 100.0])
    expected = np.mean([2.0, 1.0, 10.0] * lengths)
    assert float(losses.force_distance(*forces, system, weights)) == pytest.approx(expected)
    gradient = jax.grad(losses.force_distance)(forces[0], forces[0], system)
    np.testing.assert_array_equal(gradient, 0.0)


def test_max_force_is_a_norm_over_free_components(system, forces):
    shown = np.where(system.free, forces[0], 0.0)
    assert float(losses.max_force(forces[0], system)) == pytest.approx(np.linalg.norm(shown, axis=1).max())


def test_energy_per_atom_counts_real_atoms(system):
    assert float(losses.energy_mse_per_atom(jnp.asarray(4.0), jnp.asarray(1.0), system)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["force_mse", "force_mae", "force_huber"])
def test_held_and_padded_components_have_no_gradient(system, forces, name):
    gradient = np.asarray(jax.grad(lambda f: getattr(losses, name)(f, forces[1], system))(forces[0]))
    free = np.asarray(system.free)
    assert not np.any(gradient[~free])
    assert np.all(gradient[free] != 0)


@pytest.mark.parametrize("name", ["force_mse", "force_mae", "force_huber"])
def test_gradients_at_zero_are_finite(system, forces, name):
    gradient = jax.grad(lambda f: getattr(losses, name)(f, forces[1], system))(forces[1])
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_gradient_of_the_largest_force_at_zero(system):
    assert not jnp.any(jax.grad(losses.max_force)(jnp.zeros((4, 3)), system))


def test_a_masked_structure_counts_nothing(system, forces):
    empty = system._replace(free=jnp.zeros((4, 3), bool), mask=jnp.zeros(4, bool))
    for name in ("force_mse", "force_mae", "force_huber"):
        assert float(getattr(losses, name)(*forces, empty)) == 0.0
    one = jnp.asarray(1.0)
    assert float(losses.energy_mse_per_atom(one, one, empty)) == 0.0


def test_virials_count_like_forces(system):
    """Twice the volume per atom times the error of the stress, in a Huber function; what is unknown does not count."""
    periodic = system._replace(cell=6.0 * jnp.eye(3), pbc=jnp.ones(3, bool))
    stress = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3))) * 1e-3
    reference = jnp.zeros((3, 3)).at[0, 0].set(jnp.nan)
    virial = losses.PER_ATOM * 72.0 * np.asarray(stress)
    virial[0, 0] = 0.0
    quadratic = np.minimum(np.abs(virial), 0.05)
    expected = np.mean(quadratic * (np.abs(virial) - quadratic / 2))

    def loss(stress):
        return losses.virial_huber(stress, reference, periodic, delta=0.05)

    value, gradient = jax.value_and_grad(loss)(stress)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    direction, h = np.random.default_rng(2).normal(size=(3, 3)), 1e-8
    slope = (loss(stress + h * direction) - loss(stress - h * direction)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=1e-6)
    assert losses.virial_huber(stress, reference, system, delta=0.05) == 0.0, "a molecule has no stress"
    np.testing.assert_allclose(losses.stress_mae(stress, stress + 0.25), 0.25, rtol=1e-12)
