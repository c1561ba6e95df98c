"""Small reductions: right, and differentiable where a plain one is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bptt_relax import trees

floats = st.floats(-1e3, 1e3, allow_subnormal=False)


@given(hnp.arrays(np.float64, (4, 3), elements=floats))
def test_safe_norm_is_the_norm(x):
    np.testing.assert_allclose(
        trees.safe_norm(jnp.asarray(x)), np.linalg.norm(x, axis=-1), rtol=1e-14, atol=1e-150
    )
    np.testing.assert_allclose(
        trees.safe_norm(jnp.asarray(x), axis=0, keepdims=True),
        np.linalg.norm(x, axis=0, keepdims=True),
        rtol=1e-14,
        atol=1e-150,
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_safe_norm_at_zero(dtype):
    x = jnp.array([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]], dtype)
    total = lambda x: jnp.sum(trees.safe_norm(x))  # noqa: E731
    assert not np.all(np.isfinite(jax.grad(lambda x: jnp.sum(jnp.linalg.norm(x, axis=-1)))(x))), (
        "nothing to guard"
    )
    gradient = jax.grad(total)(x)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0.6, 0.8, 0]], rtol=1e-6)
    # Second order too: force matching and implicit gradients differentiate a norm twice.
    hessian = jax.hessian(total)(x)
    assert np.all(np.isfinite(hessian))
    # (1 - x x' / |x|^2) / |x| at (3, 4, 0).
    expected = [[0.128, -0.096, 0.0], [-0.096, 0.072, 0.0], [0.0, 0.0, 0.2]]
    np.testing.assert_allclose(hessian[1, :, 1], expected, rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(hessian[0]) == 0)
    # Forward mode, and both mixed, as the checks of gradients use them.
    _, tangent = jax.jvp(total, (x,), (jnp.ones_like(x),))
    np.testing.assert_allclose(tangent, 1.4, rtol=1e-6)


def test_safe_sqrt_at_zero():
    x = jnp.array([0.0, 4.0])
    np.testing.assert_array_equal(trees.safe_sqrt(x), [0.0, 2.0])
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(trees.safe_sqrt(x)))(x), [0.0, 0.25])
    np.testing.assert_allclose(
        jnp.diag(jax.hessian(lambda x: jnp.sum(trees.safe_sqrt(x)))(x)), [0.0, -1 / 32]
    )


def test_masked_mean_reads_nothing_that_is_masked():
    x = jnp.array([[1.0, 2.0], [3.0, 6.0], [np.nan, np.inf]])
    mask = jnp.array([True, True, False])
    np.testing.assert_allclose(trees.masked_mean(x, mask), [2.0, 4.0])
    np.testing.assert_allclose(trees.masked_mean(x[:, 0], mask), 2.0)
    gradient = jax.grad(lambda x: jnp.sum(trees.masked_mean(x, mask)))(x)
    np.testing.assert_allclose(gradient, [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]])
    np.testing.assert_array_equal(trees.masked_mean(x, jnp.zeros(3, bool)), [0.0, 0.0])
    assert trees.masked_mean(x.astype(jnp.float32), mask).dtype == jnp.float32


def test_global_norm():
    tree = {"a": jnp.array([3.0]), "b": (jnp.array([[0.0, 4.0]]), jnp.asarray(12.0))}
    np.testing.assert_allclose(trees.global_norm(tree), 13.0)
    zeros = jax.tree.map(jnp.zeros_like, tree)
    assert trees.global_norm(zeros) == 0.0
    gradient = jax.grad(trees.global_norm)(zeros)
    assert all(np.all(np.asarray(leaf) == 0.0) for leaf in jax.tree.leaves(gradient))
    assert trees.global_norm({}) == 0.0


def test_global_norm_keeps_the_precision_of_the_tree():
    # Under x64 a float64 norm would turn the gradients that it clips into float64, and the parameters after them.
    tree = {"a": jnp.ones(3, jnp.float32)}
    norm = jax.jit(trees.global_norm)(tree)
    assert norm.dtype == jnp.float32
    assert (tree["a"] / norm).dtype == jnp.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite(bad):
    good = {"a": jnp.ones(3), "n": jnp.arange(2), "m": jnp.array([True])}
    assert trees.all_finite(good)
    assert not trees.all_finite({**good, "b": jnp.array([0.0, bad])})
    assert trees.all_finite({"n": jnp.arange(2)})
    assert trees.all_finite({})


def test_where_chooses_whole_trees():
    a, b = {"x": jnp.zeros((2, 3)), "k": jnp.asarray(1)}, {"x": jnp.ones((2, 3)), "k": jnp.asarray(5)}
    chosen = trees.where(jnp.asarray(True), a, b)
    jax.tree.map(np.testing.assert_array_equal, chosen, a)
    jax.tree.map(np.testing.assert_array_equal, trees.where(jnp.asarray(False), a, b), b)
    assert chosen["k"].dtype == a["k"].dtype


def test_cast_leaves_integers_alone():
    tree = {"w": jnp.ones(2), "n": jnp.arange(3), "m": jnp.array([True]), "py": 1.5}
    cast = trees.cast(tree, jnp.float32)
    assert (cast["w"].dtype, cast["py"].dtype) == (jnp.float32, jnp.float32)
    assert (cast["n"].dtype, cast["m"].dtype) == (tree["n"].dtype, jnp.bool_)


def test_take_undoes_stack():
    parts = [{"a": jnp.full((2,), k), "b": jnp.asarray(k)} for k in range(3)]
    stacked = trees.stack(parts)
    assert stacked["a"].shape == (3, 2)
    for k, part in enumerate(parts):
        jax.tree.map(np.testing.assert_array_equal, trees.take(stacked, k), part)
