"""The two surrogates against their formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from bptt_relax.adjoints import FrozenGeometry, Guided, Implicit, Truncated

TIGHT = Implicit(tolerance=1e-12)
WINDOW = 8


def test_guided_is_the_weighted_sum_of_its_parts(converging, assert_close):
    guided, _ = converging.gradient(Guided(WINDOW, weight=0.3, implicit=TIGHT))
    window, _ = converging.gradient(Truncated(first=WINDOW))
    implicit, _ = converging.gradient(TIGHT)
    expected = jax.tree.map(lambda w, i: 0.3 * w + 0.7 * i, window, implicit)
    assert_close(guided, expected, 1e-10)
    difference = [jnp.abs(w - i) for w, i in zip(*map(jax.tree.leaves, (window, implicit)), strict=True)]
    assert max(float(jnp.max(d)) for d in difference) > 1e-2, (
        "the parts must differ for this to mean anything"
    )


def test_guided_is_exact_once_the_window_converges(converging, exact, assert_close):
    (guided, _), result = converging.gradient(Guided(150, implicit=TIGHT))
    assert int(result.state.steps) < 150
    assert_close(guided.potential, exact[0][0].potential, 1e-8)


def test_guided_is_the_window_alone_where_the_implicit_part_is_refused(converging, assert_close):
    guided, _ = converging.gradient(Guided(5, weight=0.3, implicit=TIGHT), 9)
    window, _ = converging.gradient(Truncated(first=5), 9)
    assert_close(guided, window, 1e-12)


@pytest.mark.parametrize(("window", "weight"), [(0, 0.5), (1.5, 0.5), (3, -0.1), (3, 1.1)])
def test_guided_misuse(window, weight):
    with pytest.raises(ValueError, match="window must be|weight must lie"):
        Guided(window, weight)


def test_frozen_geometry_is_one_step_at_the_end(converging, assert_close):
    step_size = 0.02
    (theta, start), result = converging.gradient(FrozenGeometry(step_size))
    end = result.state

    def one_step(params):
        t = converging.theta._replace(potential=params)
        here = converging.relaxation.evaluate(t, end.positions, end.cell, converging.system)
        moved = result._replace(
            state=end._replace(positions=end.positions + step_size * here.forces),
            info=result.info._replace(energy=here.energy),
        )
        return converging.loss(moved, converging.system)

    assert_close(theta.potential, jax.grad(one_step)(converging.theta.potential), 1e-6)
    assert not jnp.any(start)
    assert all(float(leaf) == 0.0 for leaf in jax.tree.leaves(theta.rule))


def test_frozen_geometry_misuse():
    with pytest.raises(ValueError, match="step_size must be positive"):
        FrozenGeometry(0.0)


def test_adjoints_can_be_compared_and_hashed():
    assert Guided(3) == Guided(3, implicit=Implicit())
    assert len({Implicit(), Implicit(), dataclasses.replace(Implicit(), damping=0.1)}) == 2
