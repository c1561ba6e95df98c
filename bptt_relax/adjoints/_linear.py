"""Linear solvers that say how they ended: loops without gradients, to be used inside a backward pass."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Scalar

Operator = Callable[[Array], Array]
SolverName = Literal["cg", "minres", "gmres"]

_RESTART = 50
"""Krylov vectors that gmres keeps."""


class Solution(NamedTuple):
    """Result of a linear solve.

    Attributes:
        x: the solution, shaped as the right-hand side.
        residual: () |b - A x| / |b|; 0 where b is zero.
        iterations: () int, products with A.
        definite: () bool, False once a direction of no or negative curvature was met ("cg" only).
    """

    x: Array
    residual: Scalar
    iterations: Array
    definite: Array


@full_matmul
def solve(
    solver: SolverName, operator: Operator, rhs: Array, *, tolerance: float, max_iterations: int
) -> Solution:
    """Solve A x = b from x = 0.

    Args:
        solver: "cg" for symmetric positive definite, "minres" for symmetric, "gmres" for any operator. All three
            keep to the span of b, A b, A A b, ...: a null space that b has no part in does no harm.
        operator: x -> A x.
        rhs: b, any shape.
        tolerance: on the relative residual.
        max_iterations: largest number of products.
    """
    if solver == "cg":
        return _conjugate_gradient(operator, rhs, tolerance, max_iterations)
    if solver == "minres":
        return _minres(operator, rhs, tolerance, max_iterations)
    return _gmres(operator, rhs, tolerance, max_iterations)


def _dot(a: Array, b: Array) -> Scalar:
    return jnp.sum(a * b)


def _divide(a: Array, b: Array) -> Array:
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))


def _conjugate_gradient(operator: Operator, b: Array, tolerance: float, max_iterations: int) -> Solution:
    """Hestenes and Stiefel, doi:10.6028/jres.049.044. Stops before a step along negative curvature."""
    scale = _dot(b, b)

    def unfinished(carry):
        _, _, _, squared, iterations, definite = carry
        return (squared > tolerance**2 * scale) & (iterations < max_iterations) & definite

    def iterate(carry):
        x, r, p, squared, iterations, _ = carry
        Ap = operator(p)
        curvature = _dot(p, Ap)
        definite = curvature > 0
        alpha = jnp.where(definite, _divide(squared, curvature), 0.0)
        x, r = x + alpha * p, r - alpha * Ap
        new = _dot(r, r)
        return x, r, r + _divide(new, squared) * p, new, iterations + 1, definite

    start = (jnp.zeros_like(b), b, b, scale, jnp.zeros((), jnp.int32), jnp.asarray(True))
    x, _, _, squared, iterations, definite = lax.while_loop(unfinished, iterate, start)
    return Solution(x, jnp.sqrt(_divide(squared, scale)), iterations, definite)


def _minres(operator: Operator, b: Array, tolerance: float, max_iterations: int) -> Solution:
    """Paige and Saunders, doi:10.1137/0712047: Lanczos vectors v, one Givens rotation per step."""
    norm = jnp.sqrt(_dot(b, b))
    zero, one = jnp.zeros((), b.dtype), jnp.ones((), b.dtype)

    def unfinished(carry):
        return (
            (jnp.abs(carry["eta"]) > tolerance * norm)
            & (carry["iterations"] < max_iterations)
            & (carry["beta"] > 0)
        )

    def iterate(c):
        Av = operator(c["v"])
        alpha = _dot(c["v"], Av)
        next_v = Av - alpha * c["v"] - c["beta"] * c["v_old"]
        # beta of the first step multiplies v_old = 0; later it is the norm of the unscaled vector.
        beta = jnp.sqrt(_dot(next_v, next_v))
        delta = c["cos"] * alpha - c["cos_old"] * c["sin"] * c["beta"]
        rho = jnp.sqrt(delta**2 + beta**2)
        upper = c["sin"] * alpha + c["cos_old"] * c["cos"] * c["beta"]
        furthest = c["sin_old"] * c["beta"]
        cos, sin = _divide(delta, rho), _divide(beta, rho)
        w = _divide(c["v"] - furthest * c["w_old"] - upper * c["w"], rho)
        return {
            "x": c["x"] + cos * c["eta"] * w,
            "v_old": c["v"],
            "v": _divide(next_v, beta),
            "w_old": c["w"],
            "w": w,
            "beta": beta,
            "eta": -sin * c["eta"],
            "cos_old": c["cos"],
            "cos": cos,
            "sin_old": c["sin"],
            "sin": sin,
            "iterations": c["iterations"] + 1,
        }

    nothing = jnp.zeros_like(b)
    final = lax.while_loop(
        unfinished,
        iterate,
        {
            "x": nothing,
            "v_old": nothing,
            "v": _divide(b, norm),
            "w_old": nothing,
            "w": nothing,
            "beta": norm,
            "eta": norm,
            "cos_old": one,
            "cos": one,
            "sin_old": zero,
            "sin": zero,
            "iterations": jnp.zeros((), jnp.int32),
        },
    )
    residual = _divide(jnp.abs(final["eta"]), norm)
    return Solution(final["x"], residual, final["iterations"], jnp.asarray(True))


def _gmres(operator: Operator, b: Array, tolerance: float, max_iterations: int) -> Solution:
    """Saad and Schultz, doi:10.1137/0907058, restarted. jax's own stops before it reaches a tight tolerance."""
    restart = min(_RESTART, b.size, max_iterations)
    norm = jnp.sqrt(_dot(b, b))

    def unfinished(carry):
        _, residual, iterations, progressed = carry
        return (residual > tolerance * norm) & (iterations < max_iterations) & progressed

    def cycle(carry):
        x, before, iterations, _ = carry
        correction, products = _arnoldi_cycle(operator, b - operator(x), restart, tolerance * norm)
        x = x + correction
        r = b - operator(x)
        after = jnp.sqrt(_dot(r, r))
        return x, after, iterations + products, after < 0.99 * before

    start = (jnp.zeros_like(b), norm, jnp.zeros((), jnp.int32), jnp.asarray(True))
    x, residual, iterations, _ = lax.while_loop(unfinished, cycle, start)
    return Solution(x, _divide(residual, norm), iterations, jnp.asarray(True))


def _arnoldi_cycle(operator: Operator, r: Array, size: int, target: Scalar) -> tuple[Array, Array]:
    """The correction that minimizes the residual in a Krylov space of at most ``size`` vectors; products made."""
    norm = jnp.sqrt(_dot(r, r))

    def unfinished(carry):
        return (carry["k"] < size) & (carry["residual"] > target)

    def iterate(c):
        k, V = c["k"], c["V"]
        w = operator(V[k].reshape(r.shape)).reshape(-1)
        # Gram-Schmidt twice: once loses orthogonality. Rows that are not filled yet are zero.
        first = V @ w
        w = w - first @ V
        second = V @ w
        w = w - second @ V
        length = jnp.sqrt(_dot(w, w))
        column = (first + second).at[k + 1].set(length)

        def rotate(i, column):
            a, b = column[i], column[i + 1]
            cos, sin = c["cos"][i], c["sin"][i]
            return column.at[i].set(cos * a + sin * b).at[i + 1].set(cos * b - sin * a)

        column = lax.fori_loop(0, k, rotate, column)
        radius = jnp.hypot(column[k], column[k + 1])
        cos, sin = _divide(column[k], radius), _divide(column[k + 1], radius)
        column = column.at[k].set(radius).at[k + 1].set(0.0)
        g = c["g"].at[k + 1].set(-sin * c["g"][k]).at[k].set(cos * c["g"][k])
        return {
            "V": V.at[k + 1].set(_divide(w, length)),
            "R": c["R"].at[:, k].set(column[:size]),
            "g": g,
            "cos": c["cos"].at[k].set(cos),
            "sin": c["sin"].at[k].set(sin),
            "residual": jnp.abs(g[k + 1]),
            "k": k + 1,
        }

    final = lax.while_loop(
        unfinished,
        iterate,
        {
            "V": jnp.zeros((size + 1, r.size), r.dtype).at[0].set(_divide(r, norm).reshape(-1)),
            "R": jnp.eye(size, dtype=r.dtype),
            "g": jnp.zeros(size + 1, r.dtype).at[0].set(norm),
            "cos": jnp.ones(size, r.dtype),
            "sin": jnp.zeros(size, r.dtype),
            "residual": norm,
            "k": jnp.zeros((), jnp.int32),
        },
    )
    filled = jnp.arange(size) < final["k"]
    # A zero on the diagonal belongs to an exhausted space, where nothing is left to add.
    R = final["R"] + jnp.diag(jnp.where(jnp.diag(final["R"]) == 0, 1.0, 0.0))
    y = solve_triangular(R, jnp.where(filled, final["g"][:size], 0.0))
    return (y @ final["V"][:size]).reshape(r.shape), final["k"]
