import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import relax, trees, unrolling
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
