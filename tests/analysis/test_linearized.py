"""The linearized step against the analytic map of a harmonic crystal, a real step, and the iterative spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import potentials, relax, systems
from bptt_relax.analysis import linearized_step, step_spectrum
from bptt_relax.relax import Theta
from bptt_relax.unrolling import unroll

ETA, DECAY = 0.02, 0.6


@pytest.fixture(scope="module")
def silicon(make_silicon, make_structure):
    """Stillinger-Weber silicon with a vacancy, two padded atoms, one coordinate of one atom held."""
    potential = potentials.stillinger_weber()
    structure = make_structure(make_silicon(1, rattle=0.02))
    layout = systems.plan_layout([structure], potential.graph)
    layout = layout._replace(num_atoms=layout.num_atoms + 2)
    return potential, *systems.prepare(structure, potential.graph, layout)


@pytest.fixture(scope="module")
def built(silicon):
    """A heavy ball whose cap is out of reach, the model, and the step linearized: compiled once."""
    potential = silicon[0]
    rule = relax.chain(relax.momentum(ETA, DECAY), relax.cap_displacement(0.2))
    relaxation = relax.relaxation(potential, rule)
    return relaxation, Theta(potential.init(None), rule.hyper), linearized_step(relaxation)


def test_radius_norm_and_stiffness_are_those_of_the_heavy_ball(silicon, built):
    _, positions, system = silicon
    _, theta, look = built
    found = look(theta, positions, system)
    atoms = int(system.mask.sum())
    assert found.stiffness.shape == (3 * atoms - 3,)
    assert found.modes.shape == (3 * atoms - 3, atoms, 3)
    blocks = [np.array([[1 - ETA * k, DECAY], [-ETA * k, DECAY]]) for k in found.stiffness]
    assert found.radius == pytest.approx(max(np.abs(np.linalg.eigvals(b)).max() for b in blocks), rel=1e-6)
    assert found.norm == pytest.approx(max(np.linalg.norm(b, 2) for b in blocks), rel=1e-6)
    assert found.norm > 1 > found.radius
    # A uniform translation stays, and what moves uniformly slows down.
    assert found.rigid_radius == pytest.approx(1.0, abs=1e-9)


@pytest.mark.slow
def test_it_agrees_with_the_iterative_spectrum(silicon, built):
    _, positions, system = silicon
    relaxation, theta, look = built
    found = look(theta, positions, system)
    iterated = step_spectrum(relaxation, theta, relaxation.init(theta, positions, system), system)
    assert found.radius == pytest.approx(iterated.radius, rel=1e-6)
    assert found.norm == pytest.approx(iterated.norm, rel=1e-6)


def test_a_step_and_its_derivative_are_those_of_the_relaxation(silicon, built):
    _, positions, system = silicon
    relaxation, theta, look = built
    found = look(theta, positions, system)
    atoms = int(system.mask.sum())

    @jax.jit
    def stepped(x):
        return relaxation.step(theta, relaxation.init(theta, x, system), system).state.positions

    np.testing.assert_allclose(found.step, (stepped(positions) - positions)[:atoms], atol=1e-12)
    for index in (0, -1):
        mode, h = jnp.zeros_like(positions).at[:atoms].set(found.modes[index]), 1e-5
        change = (stepped(positions + h * mode) - stepped(positions - h * mode)) / (2 * h)
        np.testing.assert_allclose(change, (1 - ETA * found.stiffness[index]) * mode, atol=1e-6)


@pytest.mark.slow
def test_the_residual_points_to_the_fixed_point(silicon, built):
    """Where forces are nearly linear, residual over stiffness is where the relaxation ends."""
    _, positions, system = silicon
    relaxation, theta, look = built
    run = jax.jit(unroll(relaxation, 200))

    def relaxed(x):
        return run(theta, relaxation.init(theta, x, system), system).state.positions

    end = relaxed(relaxed(relaxed(positions)))
    noise = 1e-3 * np.random.default_rng(0).normal(size=positions.shape)
    start = end + jnp.where(system.free, noise, 0.0)
    near = look(theta, start, system)
    atoms = int(system.mask.sum())
    along = near.modes.reshape(len(near.modes), -1) @ np.asarray(end - start)[:atoms].reshape(-1)
    np.testing.assert_allclose(near.distance, along, atol=0.02 * np.abs(along).max())
    assert look(theta, end, system).max_force < 1e-6


def test_held_coordinates_are_left_out(silicon, built):
    _, positions, system = silicon
    _, theta, look = built
    held = system._replace(free=system.free.at[0, 0].set(False))
    found = look(theta, positions, held)
    atoms = int(system.mask.sum())
    # The axis along which an atom is held has no translation either.
    assert found.stiffness.shape == (3 * atoms - 1 - 2,)
    assert np.all(found.modes[:, 0, 0] == 0)
    assert np.min(found.stiffness) > 0


@pytest.mark.slow
def test_a_relaxation_that_stops_is_refused(silicon):
    potential, positions, system = silicon
    rule = relax.descent(0.03)
    stopping = relax.relaxation(potential, rule, force_tolerance=1e3)
    with pytest.raises(ValueError, match="makes no step.*without tolerances"):
        linearized_step(stopping)(Theta(potential.init(None), rule.hyper), positions, system)


def test_a_cell_that_moves_is_refused():
    with pytest.raises(ValueError, match="moves the cell"):
        linearized_step(relax.variable_cell_relaxation(potentials.stillinger_weber(), relax.descent(0.03)))
