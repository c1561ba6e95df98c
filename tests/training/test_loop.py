import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bptt_relax.outcomes import Outcome
from bptt_relax.training import Example, Interrupted, Objective, Stage, fine_tuning, fit, make_relaxer


@pytest.fixture
def stage(problem) -> Stage:
    optimizer = fine_tuning(
        0.02,
        trainable=jax.tree.map(lambda _: True, problem.start)._replace(
            rule=jax.tree.map(lambda _: False, problem.start.rule)
        ),
        num_updates=30,
    )

    def examples(epoch):
        order = np.random.default_rng(epoch).permutation(len(problem.pairs))
        names = list(problem.pairs)
        return [Example(names[k], problem.pairs[names[k]]) for k in order]

    return Stage("bptt", problem.objective, optimizer, examples, epochs=4)


@pytest.fixture
def validate(problem):
    relax = make_relaxer(problem.relaxation, problem.potential.graph, problem.layout, 60, skin=1.0)
    pairs = list(problem.pairs.values())

    def score(theta) -> float:
        found = dict(relax(theta, problem.structures, pairs))
        return float(np.mean([found[index].delta_q for index in range(len(pairs))]))

    return score


def leaves_equal(a, b) -> bool:
    return all(jnp.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_bptt_recovers_where_relaxations_end(problem, stage, validate, tmp_path):
    before = validate(problem.start)
    result = fit(stage, problem.start, validate, tmp_path)
    assert validate(result.theta) == pytest.approx(result.progress.score)
    assert result.progress.score < 0.5 * before


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(problem, stage, validate, tmp_path):
    events = []
    whole = fit(stage, problem.start, validate, tmp_path / "whole", on_event=events.append)
    steps = iter(range(100))
    with pytest.raises(Interrupted):
        fit(stage, problem.start, validate, tmp_path / "cut", should_stop=lambda: next(steps) == 4)
    resumed_events = []
    resumed = fit(stage, problem.start, validate, tmp_path / "cut", on_event=resumed_events.append)
    assert leaves_equal(whole.theta, resumed.theta)
    steps_made = [e["step"] for e in resumed_events if e["event"] == "step"]
    assert steps_made == list(range(6, 13))
    # A finished stage is returned without another step.
    again = fit(stage, problem.start, validate, tmp_path / "cut", on_event=pytest.fail)
    assert leaves_equal(again.theta, resumed.theta)


def test_a_structure_with_nan_is_skipped_by_name_and_never_saved(problem, stage, validate, tmp_path):
    def value_and_grad(theta, example):
        pair, poison = example
        (value, outcome), gradient = problem.objective.value_and_grad(theta, pair)
        return (value + poison, outcome), jax.tree.map(lambda g: g + poison, gradient)

    names = list(problem.pairs)

    def examples(epoch):
        return [
            Example(name, (problem.pairs[name], jnp.asarray(np.nan if name == names[1] else 0.0)))
            for name in names
        ]

    events = []
    poisoned = Stage("bptt", Objective(value_and_grad), stage.optimizer, examples, epochs=4)
    result = fit(poisoned, problem.start, validate, tmp_path, on_event=events.append)
    assert result.progress.skipped == {names[1]: 4}
    assert {e["structure"] for e in events if e["event"] == "skip"} == {names[1]}
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(result.theta))
    assert result.progress.score < validate(problem.start)


def test_nothing_better_than_the_start_gives_the_start_back(problem, stage, validate, tmp_path):
    result = fit(
        stage, problem.truth, lambda theta: -1.0 if leaves_equal(theta, problem.truth) else 1.0, tmp_path
    )
    assert result.progress.best_epoch == 0
    assert leaves_equal(result.theta, problem.truth)


def test_hopeless_training_stops_and_keeps_the_best(problem, stage, tmp_path):
    def value_and_grad(theta, example):
        del example
        return (jnp.asarray(jnp.nan), jnp.asarray(int(Outcome.CONVERGED))), jax.tree.map(
            jnp.zeros_like, theta
        )

    events = []
    hopeless = Stage("bptt", Objective(value_and_grad), stage.optimizer, stage.examples, epochs=50)
    result = fit(hopeless, problem.start, lambda theta: 1.0, tmp_path, on_event=events.append)
    assert [e["event"] for e in events].count("stopped") == 1
    assert result.progress.finished
    assert result.progress.epoch == 3
    assert leaves_equal(result.theta, problem.start)


def test_stale_neighbors_are_trained_through(problem, stage, make_silicon, make_structure, tmp_path):
    """A skin too small for the way: the same update as with an ample one."""
    from bptt_relax import systems
    from bptt_relax.training.loop import _one_update
    from bptt_relax.training.train_step import init_state

    name, pair = next(iter(problem.pairs.items()))
    tight = pair._replace(
        system=systems.with_neighbors(pair.initial, pair.system, problem.potential.graph, skin=0.05)
    )
    state = init_state(problem.start, stage.optimizer)
    stale = jax.jit(problem.objective.value_and_grad)(problem.start, tight)[0][1]
    assert int(stale) == Outcome.STALE_NEIGHBORS
    ample_state, ample, _ = _one_update(stage, stage.objective, state, Example(name, pair))
    tight_state, report, rebuilt = _one_update(stage, stage.objective, state, Example(name, tight))
    assert bool(report.applied)
    assert rebuilt
    assert float(report.loss) == pytest.approx(float(ample.loss), rel=1e-10)
    assert float(report.grad_norm) == pytest.approx(float(ample.grad_norm), rel=1e-8)
    assert jnp.allclose(
        tight_state.theta.potential["sigma"], ample_state.theta.potential["sigma"], rtol=1e-10, atol=0
    )


def test_where_memory_runs_out_a_leaner_gradient_takes_over(problem, stage, validate, tmp_path):
    """The same update, made the other way; said once, and not tried again."""
    attempts = []

    def greedy(theta, pair):
        attempts.append(1)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes.")

    lean = problem.objective._replace(label="a lean one")
    objective = Objective(greedy, label="a greedy one", leaner=lean)
    events = []
    short = dataclasses.replace(stage, epochs=1)
    found = fit(
        dataclasses.replace(short, objective=objective),
        problem.start,
        validate,
        tmp_path / "fallback",
        on_event=events.append,
    )
    expected = fit(short, problem.start, validate, tmp_path / "plain")
    assert leaves_equal(found.theta, expected.theta)
    assert len(attempts) == 1
    told = [event for event in events if event["event"] == "out_of_memory"]
    assert [(event["tried"], event["instead"]) for event in told] == [("a greedy one", "a lean one")]

    alone = dataclasses.replace(short, objective=objective._replace(leaner=None))
    with pytest.raises(MemoryError, match=r"bptt: out of memory on vacancy \d, even with a greedy one"):
        fit(alone, problem.start, validate, tmp_path / "nothing")


def test_compiling_is_no_training_time_for_any_form_of_an_example(problem, stage, tmp_path):
    """Pairs with a given and with a free cell have a program each."""

    def objective(theta, pair):
        time.sleep(0.4)  # while it is traced
        return (jnp.zeros(()), jnp.zeros((), jnp.int32)), jax.tree.map(jnp.zeros_like, theta)

    name, pair = next(iter(problem.pairs.items()))
    forms = [Example(name, pair), Example(name, pair._replace(relaxed_cell=pair.system.cell))]
    mixed = dataclasses.replace(
        stage, objective=Objective(objective), examples=lambda epoch: forms * 2, epochs=1
    )
    events = []
    fit(mixed, problem.start, lambda theta: 0.0, tmp_path, on_event=events.append)
    seconds = [event["seconds"] for event in events if event["event"] == "step"]
    assert seconds[:2] == [0.0, 0.0]
    assert 0.0 < seconds[3] < 0.4


@pytest.mark.parametrize("epochs", [1, 1000])
def test_a_stage_with_a_time_ends_with_it_whatever_its_epochs(problem, stage, tmp_path, epochs):
    """How many epochs fit into the time is a guess, made on a machine that was busier or idler then."""
    timed = dataclasses.replace(stage, epochs=epochs, seconds=0.5)
    found = fit(timed, problem.start, lambda theta: 0.0, tmp_path)
    assert found.progress.epoch > 1
    assert 0.5 <= found.progress.seconds < 1.0
    assert fit(timed, problem.start, lambda theta: 0.0, tmp_path).progress == found.progress


def test_nor_is_compiling_the_way_through_rebuilds(problem, stage, tmp_path):
    name, pair = next(iter(problem.pairs.items()))
    found = []

    def stale(theta, pair):
        outcome = jnp.asarray(int(Outcome.STALE_NEIGHBORS), jnp.int32)
        return (jnp.zeros(()), outcome), jax.tree.map(jnp.zeros_like, theta)

    def through_rebuilds(theta, pair):
        time.sleep(0.0 if found else 0.4)
        found.append(1)
        return (jnp.zeros(()), jnp.zeros((), jnp.int32)), jax.tree.map(jnp.zeros_like, theta)

    events = []
    fit(
        dataclasses.replace(
            stage,
            objective=Objective(stale, through_rebuilds),
            examples=lambda epoch: [Example(name, pair)] * 3,
            epochs=1,
        ),
        problem.start,
        lambda theta: 0.0,
        tmp_path,
        on_event=events.append,
    )
    seconds = [event["seconds"] for event in events if event["event"] == "step"]
    assert seconds[0] == 0.0
    assert 0.0 < seconds[2] < 0.4


def test_numbers_of_python_do_not_make_the_second_update_compile_again(problem, stage, tmp_path):
    traced = []

    def objective(theta, pair):
        traced.append(1)
        return (jnp.zeros(()), jnp.zeros((), jnp.int32)), jax.tree.map(jnp.ones_like, theta)

    name, pair = next(iter(problem.pairs.items()))
    weak = problem.start._replace(
        potential={"strength": jnp.asarray(1.0)}, rule={"log_step_size": jnp.asarray(0.5)}
    )
    assert all(leaf.weak_type for leaf in jax.tree.leaves(weak))
    twice = dataclasses.replace(
        stage, objective=Objective(objective), examples=lambda epoch: [Example(name, pair)] * 2, epochs=1,
        optimizer=optax.sgd(0.1),
    )  # fmt: skip
    fit(twice, weak, lambda theta: 0.0, tmp_path)
    assert len(traced) == 1
