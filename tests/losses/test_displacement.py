import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from bptt_relax import losses, systems


@pytest.fixture
def crystal(make_structure):
    atoms = bulk("NaCl", "rocksalt", a=5.6).repeat((2, 2, 1))
    return systems.build_system(make_structure(atoms), len(atoms) + 2)


@pytest.fixture
def noise(crystal):
    positions, system = crystal
    x = 0.1 * np.random.default_rng(0).normal(size=positions.shape)
    return jnp.where(system.mask[:, None], x, 0.0)


def test_delta_q_is_the_mass_weighted_distance(crystal, noise):
    positions, system = crystal
    real = np.asarray(noise)[np.asarray(system.mask)]
    real = real - real.mean(axis=0)
    expected = np.sqrt(np.sum(np.asarray(system.masses)[: len(real), None] * real**2))
    assert float(losses.delta_q(positions + noise, positions, system)) == pytest.approx(expected)
    assert float(losses.rmsd(positions + noise, positions, system)) == pytest.approx(
        np.sqrt(np.mean(np.sum(real**2, axis=1)))
    )
    assert float(losses.max_displacement(positions + noise, positions, system)) == pytest.approx(
        np.linalg.norm(real, axis=1).max()
    )


@pytest.mark.parametrize("drift", [0.0, 0.3, 2.4, 3.1, 40.0])
def test_images_and_drift_change_nothing(crystal, noise, drift):
    """Also a drift further than half a cell, where wrapping atom by atom would tear the structure apart."""
    positions, system = crystal
    expected = float(losses.delta_q(positions + noise, positions, system))
    images = np.random.default_rng(1).integers(-2, 3, size=positions.shape)
    moved = positions + noise + drift * jnp.array([[1.0, 0.7, -0.4]]) + images @ system.cell
    assert float(losses.delta_q(moved, positions, system)) == pytest.approx(expected, rel=1e-9)


def test_fixed_components_give_the_frame(crystal, noise):
    positions, system = crystal
    fixed = system._replace(free=system.free.at[0].set(False))
    shifted = losses.displacement(positions + noise + 0.2, positions, fixed)
    np.testing.assert_allclose(shifted[1:8], (noise + 0.2)[1:8], atol=1e-12)
    np.testing.assert_array_equal(shifted[0], 0.0)


def test_gradient_at_the_reference_is_zero_and_elsewhere_right(crystal, noise):
    positions, system = crystal
    gradient = jax.grad(losses.delta_q)
    np.testing.assert_array_equal(gradient(positions, positions, system), 0.0)
    direction = jnp.asarray(np.random.default_rng(2).normal(size=positions.shape))
    h = 1e-6
    value = lambda s: float(losses.delta_q(positions + noise + s * h * direction, positions, system))  # noqa: E731
    along = float(jnp.vdot(gradient(positions + noise, positions, system), direction))
    assert along == pytest.approx((value(1) - value(-1)) / (2 * h), rel=1e-6)
