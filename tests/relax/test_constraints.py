"""Held atoms and held Cartesian components: read from ASE and VASP, they act in path, gradient and loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read
from ase.optimize import FIRE

from bptt_relax import io, losses, relax, unrolling

STEPS = 12
RULE = relax.fire(0.1)


@pytest.fixture(scope="module")
def held(make_cell):
    """Four atoms: one held, one held along x and z, two free."""
    atoms = make_cell((2, 1, 1))
    atoms.set_constraint([FixAtoms([1]), FixCartesian([2], mask=(True, False, True))])
    return atoms


@pytest.fixture(scope="module")
def start(held, prepare, pair):
    return prepare(held, of=pair, free=io.to_structure(held, "held").free)


@pytest.fixture(scope="module")
def theta(pair):
    return relax.Theta(pair.init(jax.random.key(0)), RULE.hyper)


@pytest.fixture(scope="module")
def value_and_grad(pair):
    relaxation = relax.relaxation(pair, RULE)
    run = unrolling.unroll(relaxation, STEPS, record=unrolling.path)

    def loss(theta, positions, system, target):
        result = run(theta, relaxation.init(theta, positions, system), system)
        return losses.delta_q(result.state.positions, target, system), result

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def test_path_is_that_of_ase_with_its_constraints(value_and_grad, theta, start, held, make_calculator, pair):
    positions, system = start
    (_, result), _ = value_and_grad(theta, positions, system, positions)
    atoms = held.copy()
    atoms.calc = make_calculator(pair, system)
    optimizer = FIRE(atoms, logfile=None, dt=0.1, dtmax=0.3)
    for ours in result.trace["positions"]:
        optimizer.step()
        np.testing.assert_allclose(ours, atoms.positions, rtol=0, atol=1e-10)
    free = np.asarray(system.free)
    np.testing.assert_array_equal(result.state.positions[~free], positions[~free])
    assert np.all(result.state.positions[free] != positions[free])


def test_gradient_is_that_of_differences(value_and_grad, theta, start, assert_gradient):
    positions, system = start
    target = positions + 0.1 * np.random.default_rng(0).normal(size=(4, 3))

    def of_both(tree):
        params, positions = tree
        (value, _), gradient = value_and_grad(theta._replace(potential=params), positions, system, target)
        return value, (gradient[0].potential, gradient[1])

    assert_gradient(of_both, (theta.potential, positions), step=1e-5)


def test_loss_sees_no_held_component_and_takes_no_frame_away(value_and_grad, theta, start):
    positions, system = start
    free = system.free
    target = positions + 0.2
    (value, _), gradient = value_and_grad(theta, positions, system, target)
    elsewhere = jnp.where(free, target, target + 0.5)
    (same, _), same_gradient = value_and_grad(theta, positions, system, elsewhere)
    np.testing.assert_allclose(same, value, rtol=1e-13)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13), gradient, same_gradient
    )
    # A common displacement of what is free is a distance: the held atoms say where the structure is.
    away = losses.delta_q(jnp.where(free, target, positions), positions, system)
    wanted = np.sqrt(np.sum(system.masses[:, None] * np.where(free, 0.2, 0.0) ** 2))
    np.testing.assert_allclose(away, wanted, rtol=1e-12)


def test_a_held_structure_converges_by_the_forces_on_what_is_free(pair, theta, start):
    positions, system = start
    relaxation = relax.relaxation(pair, RULE, force_tolerance=1e-3)
    run = jax.jit(unrolling.unroll(relaxation, 300))
    result = run(theta, relaxation.init(theta, positions, system), system)
    assert result.outcome == 1
    everything = system._replace(free=jnp.ones((4, 3), bool))
    forces = relaxation.evaluate(theta, result.state.positions, system.cell, everything).forces
    assert np.max(np.abs(forces[~np.asarray(system.free)])) > 0.05
    assert np.max(np.abs(forces[np.asarray(system.free)])) < 1e-3


POSCAR = """Si4
1.0
8 0 0
0 5 0
0 0 5
Si
4
Selective dynamics
Cartesian
0 0 0 T T T
2 2 2 F F F
4 0 0 F T F
6 2 2 T T T
"""


def test_selective_dynamics_of_vasp_is_the_same_constraint(held, tmp_path):
    """VASP holds fractional components; in a cell along the axes those are Cartesian ones."""
    (tmp_path / "POSCAR").write_text(POSCAR)
    free = io.to_structure(read(tmp_path / "POSCAR", format="vasp"), "vasp").free
    np.testing.assert_array_equal(free, io.to_structure(held, "ase").free)
