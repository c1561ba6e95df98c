"""Differences between cells: values against ASE and by hand, gradients, zero at equal cells, blind to rotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.cell import Cell
from hypothesis import given, settings
from hypothesis import strategies as st

from bptt_relax import losses, systems

REFERENCE = jnp.asarray([[4.0, 0.1, 0.2], [-0.3, 5.0, 0.4], [0.5, -0.6, 6.0]])
DISTANCES = {
    "length": losses.length_rmsd,
    "angle": losses.angle_rmsd,
    "volume": losses.volume_error,
    "strain": losses.cell_strain,
}


def strained(seed, size=0.05):
    return REFERENCE @ (jnp.eye(3) + size * np.random.default_rng(seed).normal(size=(3, 3)))


def test_lengths_and_angles_are_those_of_ase():
    cell = strained(0)
    np.testing.assert_allclose(losses.cell_lengths(cell), Cell(cell).lengths(), rtol=1e-13)
    np.testing.assert_allclose(losses.cell_angles(cell), Cell(cell).angles(), rtol=1e-13)


def test_values_by_hand():
    stretched = REFERENCE @ jnp.diag(jnp.array([1.1, 1.0, 1.0]))
    np.testing.assert_allclose(losses.volume_error(stretched, REFERENCE), 0.1, rtol=1e-12)
    np.testing.assert_allclose(losses.cell_strain(stretched, REFERENCE), 0.5 * (1.1**2 - 1), rtol=1e-12)
    box = jnp.diag(jnp.array([3.0, 4.0, 5.0]))
    np.testing.assert_allclose(
        losses.length_rmsd(box + jnp.diag(jnp.array([0.0, 0.3, 0.0])), box), 0.3 / 3**0.5
    )
    tilted = box.at[0].set(3.0 * jnp.array([jnp.cos(0.1), jnp.sin(0.1), 0.0]))
    np.testing.assert_allclose(losses.angle_rmsd(tilted, box), np.degrees(0.1) / 3**0.5, rtol=1e-12)
    np.testing.assert_allclose(losses.length_rmsd(tilted, box), 0.0, atol=1e-14)
    smaller = REFERENCE * 0.9
    np.testing.assert_allclose(losses.volume_error(smaller, REFERENCE), 1 - 0.9**3, rtol=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_cells_have_no_distance_and_no_gradient(name):
    value, gradient = jax.jit(jax.value_and_grad(DISTANCES[name]))(REFERENCE, REFERENCE)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", DISTANCES)
def test_gradient_is_that_of_differences(name):
    distance, cell = DISTANCES[name], strained(1)
    direction = np.random.default_rng(2).normal(size=(3, 3))
    h = 1e-5
    slope = (distance(cell + h * direction, REFERENCE) - distance(cell - h * direction, REFERENCE)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(jax.grad(distance)(cell, REFERENCE) * direction), slope, rtol=1e-7)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_turned_and_mirrored_cells_are_the_same(seed):
    cell = strained(seed)
    one, other = (np.linalg.qr(np.random.default_rng(seed + k).normal(size=(3, 3)))[0] for k in (0, 1))
    for distance in DISTANCES.values():
        np.testing.assert_allclose(
            distance(cell @ one, REFERENCE @ other), distance(cell, REFERENCE), rtol=1e-9
        )


def test_carried_positions_keep_their_fractional_coordinates():
    cell, fractional = strained(3), np.random.default_rng(3).normal(size=(4, 3))
    carried = losses.carry(jnp.asarray(fractional @ cell), cell, REFERENCE)
    np.testing.assert_allclose(carried, fractional @ REFERENCE, atol=1e-13)


def system_of(atoms, cell=REFERENCE):
    return systems.System(
        species=jnp.full(atoms, 14),
        masses=jnp.full(atoms, 28.0),
        cell=cell,
        pbc=jnp.ones(3, bool),
        mask=jnp.ones(atoms, bool),
        free=jnp.ones((atoms, 3), bool),
    )


def test_a_turned_and_strained_structure_is_at_no_distance():
    """Delta Q between structures that differ by their cells only."""
    fractional = np.random.default_rng(4).uniform(size=(4, 3))
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    cell = strained(4) @ rotation
    system = system_of(4)
    reference, positions = (
        jnp.asarray(fractional @ REFERENCE),
        jnp.asarray((fractional + np.array([[1, 0, -2]])) @ cell),
    )
    carried = losses.carry(positions, cell, REFERENCE)
    np.testing.assert_allclose(losses.delta_q(carried, reference, system), 0, atol=1e-12)
    assert losses.delta_q(positions, reference, system) > 1
    # Whatever cell the system has: that of the start, in a relaxation.
    there = (positions, cell, reference, REFERENCE, system_of(4, cell=cell))
    np.testing.assert_allclose(losses.delta_q_in_cell(*there), 0, atol=1e-12)
    of_cell = losses.cell_delta_q(cell, REFERENCE, system)
    np.testing.assert_allclose(losses.structure_distance(*there, cell_weight=3.0), 3.0 * of_cell, rtol=1e-12)


def test_strain_in_the_units_of_delta_q():
    """A stretch by 1% along x: 1.005% of strain, times the distance between atoms, times the root of their mass."""
    box = 3.0 * jnp.eye(3)
    stretched = box @ jnp.diag(jnp.array([1.01, 1.0, 1.0]))
    found = losses.cell_delta_q(stretched, box, system_of(1))
    np.testing.assert_allclose(found, 0.5 * (1.01**2 - 1) * 3.0 * 28**0.5, rtol=1e-10)
    # A supercell of eight has twice the edges and the same strain: as far, per root of the number of atoms.
    eight = losses.cell_delta_q(2 * stretched, 2 * box, system_of(8))
    np.testing.assert_allclose(eight, 8**0.5 * found, rtol=1e-10)


@pytest.mark.parametrize("cell_weight", [0.0, 0.7])
def test_gradient_of_the_distance_of_structures(cell_weight):
    rng = np.random.default_rng(6)
    reference = jnp.asarray(rng.uniform(size=(4, 3)) @ REFERENCE)
    start = (losses.carry(reference, REFERENCE, strained(6)) + 0.1 * rng.normal(size=(4, 3)), strained(6))

    def distance(x):
        return losses.structure_distance(*x, reference, REFERENCE, system_of(4), cell_weight=cell_weight)

    gradient = jax.grad(distance)(start)
    direction, h = (rng.normal(size=(4, 3)), rng.normal(size=(3, 3))), 1e-6
    ahead, behind = (tuple(x + s * d for x, d in zip(start, direction, strict=True)) for s in (h, -h))
    slope = (distance(ahead) - distance(behind)) / (2 * h)
    along = sum(jnp.sum(g * d) for g, d in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(along, slope, rtol=1e-7)
    there = jax.grad(distance)((reference, REFERENCE))
    assert all(np.all(np.isfinite(leaf)) for leaf in there)
