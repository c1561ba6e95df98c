import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bptt_relax import trees
from bptt_relax.outcomes import Outcome
from bptt_relax.training import Objective, fine_tuning, init_state, make_train_step


def test_a_step_follows_the_optimizer(problem):
    optimizer = optax.sgd(1e-3)
    pairs = list(problem.pairs.values())
    state = init_state(problem.start, optimizer)
    single = jax.jit(problem.objective.value_and_grad)
    singles = [single(problem.start, pair) for pair in pairs]
    after, report = jax.jit(make_train_step(problem.objective, optimizer))(state, trees.stack(pairs))
    assert float(report.loss) == pytest.approx(np.mean([float(v) for (v, _), _ in singles]), rel=1e-12)
    assert bool(report.applied)
    assert int(after.step) == 1
    slope = np.mean([float(gradient.potential["sigma"]) for _, gradient in singles])
    expected = problem.start.potential["sigma"] - 1e-3 * slope
    assert float(after.theta.potential["sigma"]) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("fault", ["nan", "inf", "stale"])
def test_an_unusable_gradient_changes_nothing(problem, fault):
    """The moments of Adam too: a NaN that is merely not applied would poison every later update."""

    def value_and_grad(theta, example):
        del example
        bad = {"nan": jnp.nan, "inf": jnp.inf, "stale": 1.0}[fault]
        gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, bad), theta)
        outcome = Outcome.STALE_NEIGHBORS if fault == "stale" else Outcome.CONVERGED
        return (jnp.asarray(1.0), jnp.asarray(int(outcome))), gradient

    optimizer = optax.adam(1e-2)
    state = init_state(problem.start, optimizer)
    after, report = make_train_step(Objective(value_and_grad), optimizer)(state, jnp.zeros(2))
    assert not bool(report.applied)
    assert not np.any(report.examples.used)
    for before_leaf, after_leaf in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert jnp.array_equal(before_leaf, after_leaf)


def test_donating_the_state_keeps_the_callers_theta(problem):
    optimizer = optax.sgd(1e-3)
    step = jax.jit(make_train_step(problem.objective, optimizer), donate_argnums=0)
    step(init_state(problem.start, optimizer), trees.stack(list(problem.pairs.values())))
    assert jnp.isfinite(problem.start.potential["sigma"])


def test_frozen_leaves_neither_move_nor_shrink_the_others():
    theta = {"trains": jnp.asarray(1.0), "frozen": jnp.asarray(1.0)}
    optimizer = fine_tuning(0.1, trainable={"trains": True, "frozen": False}, num_updates=10, clip=1.0)
    updates, _ = optimizer.update(
        {"trains": jnp.asarray(0.5), "frozen": jnp.asarray(1e6)}, optimizer.init(theta), theta
    )
    alone = fine_tuning(0.1, trainable={"trains": True}, num_updates=10, clip=1.0)
    expected, _ = alone.update({"trains": jnp.asarray(0.5)}, alone.init({"trains": theta["trains"]}))
    assert float(updates["frozen"]) == 0.0
    assert float(updates["trains"]) == float(expected["trains"]) != 0.0


def test_one_trace_for_all_structures(problem):
    traces = []

    def counted(theta, pair):
        traces.append(1)
        return problem.objective.value_and_grad(theta, pair)

    optimizer = optax.adam(1e-3)
    step = jax.jit(make_train_step(Objective(counted), optimizer))
    state = init_state(problem.start, optimizer)
    for pair in problem.pairs.values():
        state, _ = step(state, trees.stack([pair]))
    assert len(traces) == 1


def test_the_average_follows_and_smooths(problem):
    """An alternating gradient: theta jumps, its average hardly moves; without averaging it is theta itself."""

    def value_and_grad(theta, sign):
        return (jnp.asarray(1.0), jnp.asarray(int(Outcome.CONVERGED))), jax.tree.map(
            lambda leaf: sign * jnp.ones_like(leaf), theta
        )

    optimizer = optax.sgd(0.1)
    smoothed = jax.jit(make_train_step(Objective(value_and_grad), optimizer, averaging=0.9))
    plain = jax.jit(make_train_step(Objective(value_and_grad), optimizer))
    state = other = init_state(problem.start, optimizer)
    jumps, drifts = [], []
    for k in range(60):
        before = state
        state, _ = smoothed(state, jnp.asarray([(-1.0) ** k]))
        other, _ = plain(other, jnp.asarray([(-1.0) ** k]))
        jumps.append(abs(float(state.theta.potential["sigma"] - before.theta.potential["sigma"])))
        drifts.append(abs(float(state.average.potential["sigma"] - before.average.potential["sigma"])))
    assert min(jumps) == pytest.approx(0.1)
    assert max(drifts[-10:]) < 0.011
    assert float(state.average.potential["sigma"]) == pytest.approx(
        float(problem.start.potential["sigma"]) - 0.05, abs=0.01
    )
    assert float(other.average.potential["sigma"]) == float(other.theta.potential["sigma"])
