"""Low-rank updates of weights that are a matrix, a stack of matrices, a vector and a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax.outcomes import InputError, Interrupted, Outcome
from bptt_relax.relax import Theta
from bptt_relax.training import (
    Example,
    Gradients,
    Objective,
    Stage,
    Term,
    fine_tuning,
    fit,
    like,
    low_rank,
)

RANK = 2


def make_theta():
    rng = np.random.default_rng(0)
    potential = {
        "kernel": jnp.asarray(rng.normal(size=(5, 4))),
        "stack": [jnp.asarray(rng.normal(size=(3, 4, 6)))],
        "bias": jnp.asarray(rng.normal(size=4)),
        "frozen": jnp.asarray(rng.normal(size=(4, 4))),
        "scale": jnp.asarray(1.3),
    }
    return Theta(potential, {"step": jnp.asarray(-1.0)})


def predict(theta, x):
    p = theta.potential
    h = jnp.tanh(x @ p["kernel"] + p["bias"]) @ p["frozen"]
    return jnp.exp(theta.rule["step"]) * p["scale"] * jnp.einsum("i,kij->kj", h, p["stack"][0])


def loss(theta, example):
    x, y = example
    return jnp.mean((predict(theta, x) - y) ** 2), jnp.asarray(int(Outcome.CONVERGED), jnp.int32)


OBJECTIVE = Objective(jax.value_and_grad(loss, has_aux=True))
CHOSEN = {"kernel": True, "stack": [True], "bias": True, "frozen": False, "scale": True}


@pytest.fixture
def factored():
    theta = make_theta()
    return theta._replace(potential=low_rank.factor(theta.potential, RANK, CHOSEN))


@pytest.fixture
def examples():
    rng = np.random.default_rng(1)
    target = make_theta()
    target.potential["kernel"] = target.potential["kernel"] + 0.5 * rng.normal(size=(5, 4))
    inputs = jnp.asarray(rng.normal(size=(8, 5)))
    return [Example(str(k), (x, predict(target, x))) for k, x in enumerate(inputs)]


def stage_of(theta, examples, epochs=6):
    mask = Theta(low_rank.factors_only(theta.potential), {"step": False})
    optimizer = fine_tuning(0.02, trainable=like(theta, mask), num_updates=epochs * len(examples))

    def batches(epoch, first):
        del epoch
        return [((example,),) for example in examples[first:]]

    terms = (Term(Gradients([low_rank.on_factors(OBJECTIVE)])),)
    return Stage("toy", terms, optimizer, batches, epochs, averaging=0.8)


def test_training_starts_where_it_should(factored):
    merged = low_rank.merge_theta(factored)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, merged, make_theta()))
    assert set(factored.potential.left) == {"kernel", "stack/0"}
    assert factored.potential.left["stack/0"].shape == (3, 4, RANK)
    assert factored.potential.right["stack/0"].shape == (3, RANK, 6)


def test_gradients_agree_with_finite_differences(factored, examples):
    rng = np.random.default_rng(2)
    # Away from B = 0, where the gradient by A vanishes.
    right = {name: jnp.asarray(rng.normal(size=b.shape)) for name, b in factored.potential.right.items()}
    theta = factored._replace(potential=factored.potential._replace(right=right))
    objective = low_rank.on_factors(OBJECTIVE)
    data = examples[0].data
    _, gradient = objective.value_and_grad(theta, data)

    def value(left, right, rule):
        moved = theta.potential._replace(left=left, right=right)
        return float(objective.value_and_grad(Theta(moved, rule), data)[0][0])

    parts = (theta.potential.left, theta.potential.right, theta.rule)
    slopes = (gradient.potential.left, gradient.potential.right, gradient.rule)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), parts)
    step = 1e-5

    def along(t):
        return value(*jax.tree.map(lambda x, d: x + t * d, parts, direction))

    expected = sum(jax.tree.leaves(jax.tree.map(lambda g, d: float(jnp.sum(g * d)), slopes, direction)))
    assert (along(step) - along(-step)) / (2 * step) == pytest.approx(expected, rel=1e-7)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient.potential.base))


def test_only_factors_move_and_the_update_has_that_rank(factored, examples, tmp_path):
    start = make_theta()

    def validate(theta):
        merged = low_rank.merge_theta(theta)
        return float(np.mean([loss(merged, example.data)[0] for example in examples]))

    result = fit(stage_of(factored, examples), factored, validate, tmp_path)
    assert result.progress.score < 0.7 * validate(factored)
    merged = low_rank.merge_theta(result.theta)
    for name in ("bias", "frozen", "scale"):
        np.testing.assert_allclose(merged.potential[name], start.potential[name], rtol=1e-14)
    update = np.asarray(merged.potential["kernel"] - start.potential["kernel"])
    assert np.sum(np.linalg.svd(update, compute_uv=False) > 1e-10) == RANK


def test_an_interrupted_stage_goes_on_to_the_same_factors(factored, examples, tmp_path):
    stage = stage_of(factored, examples, epochs=2)
    whole = fit(stage, factored, lambda theta: -float(theta.potential.right["kernel"].sum()), tmp_path / "a")
    steps = iter(range(100))

    def validate(theta):
        return -float(theta.potential.right["kernel"].sum())

    with pytest.raises(Interrupted):
        fit(stage, factored, validate, tmp_path / "b", should_stop=lambda: next(steps) == 4)
    resumed = fit(stage, factored, validate, tmp_path / "b")
    assert jax.tree.all(jax.tree.map(jnp.array_equal, whole.theta, resumed.theta))


def test_the_way_through_rebuilds_sees_factors_too(factored, examples):
    calls = []

    def told(name):
        def value_and_grad(theta, example):
            calls.append((name, sorted(theta.potential)))
            return OBJECTIVE.value_and_grad(theta, example)

        return value_and_grad

    wrapped = low_rank.on_factors(Objective(told("fast"), told("rebuilds")))
    for function in (wrapped.value_and_grad, wrapped.through_rebuilds):
        function(factored, examples[0].data)
    assert [name for name, _ in calls] == ["fast", "rebuilds"]
    assert all(names == sorted(CHOSEN) for _, names in calls)


def test_impossible_ranks_are_refused():
    theta = make_theta()
    with pytest.raises(ValueError, match="rank=0 must be at least 1"):
        low_rank.factor(theta.potential, 0, CHOSEN)
    with pytest.raises(InputError, match="there is none"):
        low_rank.factor({"scale": jnp.ones(3)}, 1, {"scale": True})
