import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import losses, relax, systems, trees, unrolling
from bptt_relax.outcomes import Outcome
from bptt_relax.training import LabelledFrame, force_matching, relaxed_structure, weighted_sum


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


def test_force_objective_is_the_mean_over_its_frames(problem):
    predict = jax.jit(relax.relaxation(problem.potential, relax.descent(0.01)).evaluate)
    frames = []
    for pair in problem.pairs.values():
        forces = predict(problem.truth, pair.initial, pair.system.cell, pair.system).forces
        frames.append(LabelledFrame(pair.initial, forces, pair.system))
    objective = jax.jit(force_matching(problem.potential, delta=0.05).value_and_grad)
    (exact, _), _ = objective(problem.truth, trees.stack(frames))
    assert float(exact) == pytest.approx(0.0, abs=1e-20)
    (value, _), gradient = objective(problem.start, trees.stack(frames))
    singles = [float(objective(problem.start, trees.stack([frame]))[0][0]) for frame in frames]
    assert float(value) == pytest.approx(np.mean(singles), rel=1e-12)
    check_against_differences(
        lambda t: objective(t, trees.stack(frames))[0][0], problem.start, gradient, 1e-6
    )


def test_stale_frames_are_reported(problem):
    pair = next(iter(problem.pairs.values()))
    moved = pair.initial.at[0].add(2.0)
    frame = LabelledFrame(moved, jnp.zeros_like(moved), pair.system)
    (_, outcome), _ = jax.jit(force_matching(problem.potential).value_and_grad)(
        problem.start, trees.stack([frame])
    )
    assert int(outcome) == Outcome.STALE_NEIGHBORS


def test_weighted_sum_adds_values_gradients_and_the_worse_outcome(problem):
    pair = next(iter(problem.pairs.values()))
    frame = LabelledFrame(pair.initial, jnp.zeros_like(pair.initial), pair.system)
    forces = force_matching(problem.potential)
    both = jax.jit(weighted_sum(problem.objective, forces, 7.0).value_and_grad)
    batch = trees.stack([frame])
    (value, outcome), gradient = both(problem.start, (pair, batch))
    (a, a_outcome), a_gradient = jax.jit(problem.objective.value_and_grad)(problem.start, pair)
    (b, _), b_gradient = jax.jit(forces.value_and_grad)(problem.start, batch)
    assert float(value) == pytest.approx(float(a + 7.0 * b), rel=1e-12)
    assert int(outcome) == max(int(a_outcome), Outcome.CONVERGED)
    for total, one, other in zip(*map(jax.tree.leaves, (gradient, a_gradient, b_gradient)), strict=True):
        assert jnp.allclose(total, one + 7.0 * other, rtol=1e-10)
    stale = frame._replace(positions=pair.initial.at[0].add(2.0))
    assert int(both(problem.start, (pair, trees.stack([stale])))[0][1]) == Outcome.STALE_NEIGHBORS


def test_weighted_sum_goes_through_rebuilds_of_the_first(problem):
    pair = next(iter(problem.pairs.values()))
    tight = pair._replace(
        system=systems.with_neighbors(pair.initial, pair.system, problem.potential.graph, skin=0.05)
    )
    frame = LabelledFrame(pair.initial, jnp.zeros_like(pair.initial), pair.system)
    both = weighted_sum(problem.objective, force_matching(problem.potential), 7.0)
    (expected, _), expected_gradient = jax.jit(both.value_and_grad)(
        problem.start, (pair, trees.stack([frame]))
    )
    (value, _), gradient = both.through_rebuilds(problem.start, (tight, trees.stack([frame])))
    assert float(value) == pytest.approx(float(expected), rel=1e-10)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        assert jnp.allclose(one, other, rtol=1e-8)
    with pytest.raises(ValueError, match="rebuilds first"):
        weighted_sum(force_matching(problem.potential), problem.objective, 1.0)


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
