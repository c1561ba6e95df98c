import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import losses, relax, unrolling
from bptt_relax.outcomes import Outcome
from bptt_relax.training import LabelledFrame, force_matching, relaxed_structure


def check_against_differences(function, theta, gradient, rtol):
    flat, restore = jax.flatten_util.ravel_pytree(theta)
    direction = jnp.asarray(np.random.default_rng(0).normal(size=flat.shape)) * jnp.maximum(
        jnp.abs(flat), 1.0
    )
    h = 1e-6
    difference = (function(restore(flat + h * direction)) - function(restore(flat - h * direction))) / (2 * h)
    along = jnp.vdot(jax.flatten_util.ravel_pytree(gradient)[0], direction)
    assert float(along) == pytest.approx(float(difference), rel=rtol)


def test_structure_objective_with_anchor(problem):
    pair = next(iter(problem.pairs.values()))
    plain = unrolling.unroll(problem.relaxation, 10)
    objective = relaxed_structure(
        problem.relaxation, plain, problem.potential, anchor=problem.truth.potential, anchor_weight=3.0
    )
    value_and_grad = jax.jit(objective.value_and_grad)
    (value, _), gradient = value_and_grad(problem.start, pair)
    unanchored = relaxed_structure(problem.relaxation, plain, problem.potential)
    (bare, _), _ = jax.jit(unanchored.value_and_grad)(problem.start, pair)
    assert float(value) > float(bare)
    check_against_differences(lambda theta: value_and_grad(theta, pair)[0][0], problem.start, gradient, 1e-6)


def labelled(problem, pair) -> LabelledFrame:
    predict = jax.jit(relax.relaxation(problem.potential, relax.descent(0.01)).evaluate)
    here = predict(problem.truth, pair.initial, pair.system.cell, pair.system)
    return LabelledFrame(pair.initial, here.forces, pair.system)


def test_force_objective_is_zero_at_the_truth_and_its_gradient_is_right(problem):
    frame = labelled(problem, next(iter(problem.pairs.values())))
    objective = jax.jit(force_matching(problem.potential, delta=0.05).value_and_grad)
    (exact, _), _ = objective(problem.truth, frame)
    assert float(exact) == pytest.approx(0.0, abs=1e-20)
    (value, _), gradient = objective(problem.start, frame)
    assert float(value) > 1e-4
    check_against_differences(lambda t: objective(t, frame)[0][0], problem.start, gradient, 1e-6)


def test_force_objective_pulls_back_leanly_and_says_the_same(problem):
    frame = labelled(problem, next(iter(problem.pairs.values())))
    lean = jax.jit(force_matching(problem.potential).value_and_grad)(problem.start, frame)
    plain = problem.potential._replace(apply_lean=None)
    full = jax.jit(force_matching(plain).value_and_grad)(problem.start, frame)
    for one, other in zip(jax.tree.leaves(lean), jax.tree.leaves(full), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)


def test_stale_frames_are_reported(problem):
    pair = next(iter(problem.pairs.values()))
    moved = pair.initial.at[0].add(2.0)
    frame = LabelledFrame(moved, jnp.zeros_like(moved), pair.system)
    (_, outcome), _ = jax.jit(force_matching(problem.potential).value_and_grad)(problem.start, frame)
    assert int(outcome) == Outcome.STALE_NEIGHBORS


@pytest.mark.parametrize(
    ("distance", "value", "slope"), [(0.0, 0.0, 0.0), (4.0, 2.0, 0.8), (3000.0, 2997.0, 1.0)]
)
def test_pseudo_huber_lets_go_of_what_is_nearly_right(distance, value, slope):
    found, gradient = jax.value_and_grad(losses.pseudo_huber)(distance, 3.0)
    assert float(found) == pytest.approx(value, rel=1e-5)
    assert float(gradient) == pytest.approx(slope, rel=1e-5)


def test_pseudo_huber_without_softening_is_the_distance():
    assert float(losses.pseudo_huber(jnp.asarray(1.5), 0.0)) == 1.5
    assert float(jax.grad(losses.pseudo_huber)(0.0, 0.0)) == 0.0
