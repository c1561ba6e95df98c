"""Removal of the drift: a net push moves nothing, whatever is padded; a held atom gives the frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptt_relax import relax, systems
from bptt_relax.relax.variable_cell import with_cell_rows


def bare_system(free, padded: int = 0) -> systems.System:
    """Atoms without neighbors: all that a rule needs."""
    n = len(free)
    real = jnp.arange(n + padded) < n
    return systems.System(
        species=jnp.where(real, 14, 0),
        masses=jnp.where(real, 28.0, 0.0),
        cell=jnp.eye(3),
        pbc=jnp.zeros(3, bool),
        mask=real,
        free=jnp.pad(jnp.asarray(free), ((0, padded), (0, 0))),
    )


@jax.jit
def displaced(forces, system):
    rule = relax.chain(relax.descent(0.1), relax.remove_drift())
    return rule.update(rule.hyper, forces, rule.init(rule.hyper, system), system)[0]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), push=st.floats(-5, 5), padded=st.sampled_from([0, 3]))
def test_a_net_push_moves_nothing(seed, push, padded):
    forces = np.zeros((4 + padded, 3))
    forces[:4] = np.random.default_rng(seed).normal(size=(4, 3))
    system = bare_system(np.ones((4, 3), bool), padded)
    plain = displaced(jnp.asarray(forces), system)
    np.testing.assert_allclose(np.sum(plain, axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(plain[:4], 0.1 * (forces[:4] - forces[:4].mean(axis=0)), atol=1e-14)
    np.testing.assert_array_equal(plain[4:], 0)
    forces[:4] += push
    np.testing.assert_allclose(displaced(jnp.asarray(forces), system), plain, atol=1e-13)


def test_held_atoms_give_the_frame_along_the_axes_in_which_they_are_held():
    free = np.ones((3, 3), bool)
    free[1, 2] = False
    forces = jnp.where(free, 1.0, 0.0)
    wanted = [[0, 0, 0.1], [0, 0, 0], [0, 0, 0.1]]
    np.testing.assert_allclose(displaced(forces, bare_system(free)), wanted, atol=1e-15)


def test_rows_of_the_cell_have_no_part_in_it():
    system = with_cell_rows(bare_system(np.ones((2, 3), bool), padded=1))
    forces = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3))).at[2].set(0.0)
    moved = displaced(forces, system)
    np.testing.assert_allclose(moved[:2] + moved[1::-1], 0, atol=1e-15)
    np.testing.assert_allclose(moved[3:], 0.1 * forces[3:])
    np.testing.assert_array_equal(moved[2], 0)


def test_forces_that_do_not_add_up_leave_the_structure_in_place(pair, make_cell, prepare):
    """A direct-force model pushes the whole structure along; the relaxed structure must not depend on it."""

    def pushed(strength):
        def apply(params, positions, system, graph):
            prediction = pair.apply(params, positions, system, graph)
            forces = prediction.forces + jnp.where(system.mask[:, None], strength, 0.0)
            return prediction._replace(forces=forces)

        return pair._replace(apply=apply, apply_lean=None, conservative=False)

    rule = relax.chain(relax.momentum(0.02, 0.5), relax.remove_drift())
    theta = relax.Theta(pair.init(jax.random.key(0)), rule.hyper)
    positions, system = prepare(make_cell(), of=pair)

    @jax.jit
    def end(strength):
        relaxation = relax.relaxation(pushed(strength), rule)
        state = relaxation.init(theta, positions, system)
        for _ in range(3):
            state, _ = relaxation.step(theta, state, system)
        return state.positions

    still, carried = end(0.0), end(0.7)
    np.testing.assert_allclose(carried, still, atol=1e-12)
    np.testing.assert_allclose(jnp.mean(carried, axis=0), jnp.mean(positions, axis=0), atol=1e-12)
    assert jnp.max(jnp.abs(carried - positions)) > 1e-3


def test_gradient_is_a_projection():
    system = bare_system(np.ones((3, 3), bool), padded=1)
    jacobian = jax.jacobian(displaced)(jnp.ones((4, 3)), system).reshape(12, 12)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-15)
    np.testing.assert_allclose(jacobian @ jacobian, 0.1 * jacobian, atol=1e-15)


@pytest.mark.parametrize("size", [0, 2])
def test_nothing_but_padding(size):
    system = bare_system(np.zeros((size, 3), bool), padded=2)
    assert np.all(np.isfinite(displaced(jnp.zeros((size + 2, 3)), system)))
