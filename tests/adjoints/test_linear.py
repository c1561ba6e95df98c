"""The solvers against dense algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax.adjoints._linear import solve

SIZE = 30


def matrix(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))
    lowest = {"definite": 0.1, "indefinite": -5.0, "singular": 0.0, "general": 0.1}[kind]
    symmetric = vectors @ np.diag(np.linspace(lowest, 30, SIZE)) @ vectors.T
    return symmetric + (3 * rng.normal(size=(SIZE, SIZE)) if kind == "general" else 0.0)


def solved(solver, A, b, tolerance=1e-11, max_iterations=200):
    def product(v):
        return (jnp.asarray(A) @ v.reshape(-1)).reshape(v.shape)

    return solve(solver, product, b, tolerance=tolerance, max_iterations=max_iterations)


@pytest.fixture
def rhs():
    return jnp.asarray(np.random.default_rng(1).normal(size=(SIZE // 3, 3)))


@pytest.mark.parametrize(
    ("solver", "kind"),
    [
        ("cg", "definite"),
        ("minres", "definite"),
        ("minres", "indefinite"),
        ("gmres", "definite"),
        ("gmres", "indefinite"),
        ("gmres", "general"),
    ],
)
def test_solution(solver, kind, rhs):
    A = matrix(kind)
    solution = solved(solver, A, rhs)
    expected = np.linalg.solve(A, rhs.reshape(-1)).reshape(rhs.shape)
    np.testing.assert_allclose(solution.x, expected, rtol=1e-8, atol=1e-8)
    assert float(solution.residual) <= 1e-11
    assert 0 < int(solution.iterations) <= 2 * SIZE
    assert bool(solution.definite)


@pytest.mark.parametrize("solver", ["cg", "minres", "gmres"])
def test_null_space_that_the_right_hand_side_has_no_part_in(solver, rhs):
    A = matrix("singular")
    b = jnp.asarray(A @ np.asarray(rhs).reshape(-1)).reshape(rhs.shape)
    solution = solved(solver, A, b)
    np.testing.assert_allclose(A @ np.asarray(solution.x).reshape(-1), b.reshape(-1), atol=1e-8)
    # And the solution has no part in it either.
    np.testing.assert_allclose(
        np.asarray(solution.x).reshape(-1),
        np.linalg.pinv(A, rcond=1e-12) @ np.asarray(b).reshape(-1),
        atol=1e-7,
    )


@pytest.mark.parametrize("solver", ["cg", "minres", "gmres"])
def test_zero_right_hand_side(solver, rhs):
    solution = solved(solver, matrix("definite"), jnp.zeros_like(rhs))
    assert not jnp.any(solution.x)
    assert float(solution.residual) == 0.0
    assert int(solution.iterations) == 0


def test_conjugate_gradients_report_negative_curvature(rhs):
    solution = solved("cg", matrix("indefinite"), rhs)
    assert not bool(solution.definite)
    assert bool(jnp.all(jnp.isfinite(solution.x)))


@pytest.mark.parametrize("solver", ["cg", "minres", "gmres"])
def test_too_few_iterations_are_reported(solver, rhs):
    solution = solved(solver, matrix("definite"), rhs, max_iterations=5)
    assert float(solution.residual) > 1e-6
    assert int(solution.iterations) == 5


def test_restarts(rhs):
    """More products than vectors are kept."""
    rng = np.random.default_rng(2)
    A = np.diag(np.linspace(1, 300, 120)) + rng.normal(size=(120, 120))
    b = jnp.asarray(rng.normal(size=(40, 3)))
    solution = solved("gmres", A, b, tolerance=1e-10, max_iterations=1000)
    assert float(solution.residual) <= 1e-10
    assert int(solution.iterations) > 50
    np.testing.assert_allclose(A @ np.asarray(solution.x).reshape(-1), b.reshape(-1), atol=1e-7)


@pytest.mark.parametrize("solver", ["cg", "minres", "gmres"])
def test_side_by_side_as_alone(solver, rhs):
    A = matrix("definite")
    batch = jnp.stack([rhs, jnp.zeros_like(rhs), 1e3 * rhs[::-1]])
    together = jax.jit(jax.vmap(lambda b: solved(solver, A, b)))(batch)
    for i, b in enumerate(batch):
        np.testing.assert_allclose(together.x[i], solved(solver, A, b).x, rtol=1e-9, atol=1e-9)
