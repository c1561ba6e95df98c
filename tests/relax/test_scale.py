"""Learnable factors per element and per step: 1 changes nothing, and each is where it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import relax
from bptt_relax.systems import System

FORCES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))


@pytest.fixture
def system() -> System:
    return System(
        species=jnp.asarray([14, 14, 6, 0]),
        masses=jnp.asarray([28.0, 28.0, 12.0, 0.0]),
        cell=8.0 * jnp.eye(3),
        pbc=jnp.ones(3, bool),
        mask=jnp.asarray([True, True, True, False]),
        free=jnp.asarray([[True] * 3] * 3 + [[False] * 3]),
    )


def steps(rule, hyper, system, count):
    state, made = rule.init(hyper, system), []
    for _ in range(count):
        displacement, state = rule.update(hyper, FORCES, state, system)
        made.append(displacement)
    return jnp.stack(made)


@pytest.mark.parametrize("make", [relax.scale_by_element, lambda: relax.scale_by_step(3)])
def test_at_first_nothing_changes(make, system):
    plain = relax.momentum(0.1, 0.5)
    scaled = relax.chain(make(), plain)
    np.testing.assert_array_equal(
        steps(scaled, scaled.hyper, system, 5), steps(plain, plain.hyper, system, 5)
    )


def test_elements_have_a_factor_each(system):
    rule = relax.scale_by_element()
    hyper = {"log_element_scale": rule.hyper["log_element_scale"].at[6].set(jnp.log(3.0))}
    found = steps(rule, hyper, system, 1)[0]
    np.testing.assert_allclose(found, FORCES * jnp.asarray([1.0, 1.0, 3.0, 1.0])[:, None], rtol=1e-6)


def test_steps_have_a_factor_each_and_the_last_one_stays(system):
    rule = relax.scale_by_step(2)
    hyper = {"log_step_scale": jnp.log(jnp.asarray([2.0, 0.5]))}
    found = steps(rule, hyper, system, 4)
    np.testing.assert_allclose(
        found, jnp.asarray([2.0, 0.5, 0.5, 0.5])[:, None, None] * FORCES[None], rtol=1e-6
    )


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        relax.scale_by_step(0)


@pytest.mark.parametrize("make", [relax.scale_by_element, lambda: relax.scale_by_step(3)])
def test_gradient_against_finite_differences(make, system):
    with jax.enable_x64(True):
        rule = relax.chain(make(), relax.momentum(0.1, 0.5))
        rng = np.random.default_rng(1)
        hyper = jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=np.shape(x))) + x, rule.hyper)
        hyper = jax.tree.map(lambda x: x.astype(jnp.float64), hyper)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=np.shape(x))), hyper)

        def value(h):
            return jnp.sum(jnp.sin(steps(rule, h, system, 5)))

        slope = sum(
            jnp.vdot(a, b)
            for a, b in zip(*map(jax.tree.leaves, (jax.grad(value)(hyper), direction)), strict=True)
        )
        at = [value(jax.tree.map(lambda x, d, s=s: x + s * d, hyper, direction)) for s in (1e-5, -1e-5)]
        assert float(slope) == pytest.approx(float(at[0] - at[1]) / 2e-5, rel=1e-6)
