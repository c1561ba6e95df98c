"""Products with the Hessian against the dense one, and the motions that are left out of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax.adjoints.curvature import curvature, rigid_modes


def dense_hessian(problem, positions):
    def forces(x):
        return problem.relaxation.evaluate(problem.theta, x, problem.system.cell, problem.system).forces

    size = positions.size
    return -np.asarray(jax.jit(jax.jacrev(forces))(positions)).reshape(size, size)


def rank(problem, **changes):
    modes = rigid_modes(problem.positions, problem.system.cell, problem.system._replace(**changes))
    return int(np.linalg.matrix_rank(np.asarray(modes).reshape(6, -1), tol=1e-8))


def test_product_is_that_of_the_projected_hessian(converging):
    p = converging
    v = jnp.asarray(np.random.default_rng(0).normal(size=p.positions.shape))

    @jax.jit
    def products(v):
        here = curvature(p.relaxation, p.theta, p.positions, p.system.cell, p.system)
        return here.product(v), here.transposed(v), here.project(v)

    product, transposed, projected = products(v)
    expected = dense_hessian(p, p.positions) @ np.asarray(projected).reshape(-1)
    np.testing.assert_allclose(product.reshape(-1), expected, atol=1e-10)
    np.testing.assert_allclose(transposed, product, atol=1e-10)
    # Projected: no padded atom, no net shift.
    assert not jnp.any(projected[4])
    np.testing.assert_allclose(jnp.sum(projected, axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(products(projected)[2], projected, atol=1e-12)


@pytest.mark.parametrize(
    ("pbc", "expected"),
    [((1, 1, 1), 3), ((0, 0, 0), 6), ((1, 0, 0), 4), ((0, 0, 1), 4), ((1, 1, 0), 3)],
)
def test_number_of_rigid_motions(converging, pbc, expected):
    assert rank(converging, pbc=jnp.asarray(pbc, bool)) == expected


def test_a_line_of_atoms_does_not_turn_about_itself(converging):
    line = jnp.outer(jnp.arange(5.0), jnp.array([1.0, 2.0, -1.0]))
    system = converging.system._replace(pbc=jnp.zeros(3, bool))
    modes = rigid_modes(line, system.cell, system)
    assert np.linalg.matrix_rank(np.asarray(modes).reshape(6, -1), tol=1e-8) == 5


def test_a_held_component_leaves_the_other_translations(converging):
    system = converging.system._replace(pbc=jnp.zeros(3, bool))
    held = system.free.at[1, 2].set(False)
    modes = rigid_modes(converging.positions, system.cell, system._replace(free=held))
    assert np.linalg.matrix_rank(np.asarray(modes).reshape(6, -1), tol=1e-8) == 2
    assert not jnp.any(modes[2])


def test_rigid_motions_of_a_cluster_cost_nothing(make_problem, cluster):
    """At its minimum, translations and rotations are all of the null space."""
    p = make_problem(cluster, num_atoms=4)
    from bptt_relax import unrolling

    end = jax.jit(unrolling.unroll(p.relaxation, 300))(
        p.theta, p.relaxation.init(p.theta, p.positions, p.system), p.system
    ).state.positions
    H = dense_hessian(p, end)
    modes = np.asarray(rigid_modes(end, p.system.cell, p.system)).reshape(6, -1)
    np.testing.assert_allclose(H @ modes.T, 0.0, atol=1e-8)
    assert np.sum(np.abs(np.linalg.eigvalsh(H)) < 1e-6) == 6
