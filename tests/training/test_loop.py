import dataclasses
import errno
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from bptt_relax.outcomes import Interrupted, Outcome, StorageError
from bptt_relax.training import Example, Gradients, Objective, Relaxer, Stage, Term, fine_tuning, fit, like


def terms(objective: Objective, **options) -> tuple[Term, ...]:
    return (Term(Gradients([objective], **options)),)


def batches_of(make_examples, size=1):
    """Epoch -> examples, as batches of so many."""

    def batches(epoch, first):
        examples = make_examples(epoch)
        return [(examples[k : k + size],) for k in range(first * size, len(examples), size)]

    return batches


@pytest.fixture
def examples(problem):
    def of_epoch(epoch):
        order = np.random.default_rng(epoch).permutation(len(problem.pairs))
        names = list(problem.pairs)
        return [Example(names[k], problem.pairs[names[k]]) for k in order]

    return of_epoch


@pytest.fixture
def stage(problem, examples) -> Stage:
    mask = jax.tree.map(lambda _: True, problem.start)
    mask = mask._replace(rule=jax.tree.map(lambda _: False, problem.start.rule))
    optimizer = fine_tuning(0.02, trainable=like(problem.start, mask), num_updates=30)
    return Stage("bptt", terms(problem.objective), optimizer, batches_of(examples), epochs=4)


@pytest.fixture
def validate(problem):
    relax = Relaxer(problem.relaxation, problem.potential.graph, 60, skin=1.0)
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


@pytest.mark.parametrize("size", [1, 3])
def test_a_structure_with_nan_is_skipped_by_name_and_never_saved(problem, stage, validate, tmp_path, size):
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
    batches = batches_of(examples, size)
    poisoned = Stage("bptt", terms(Objective(value_and_grad)), stage.optimizer, batches, epochs=4)
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

    events, handed_over = [], []
    hopeless = dataclasses.replace(stage, terms=terms(Objective(value_and_grad)), epochs=50)
    result = fit(
        hopeless,
        problem.start,
        lambda theta: 1.0,
        tmp_path,
        on_event=events.append,
        on_bad_updates=handed_over.append,
    )
    said = [e["event"] for e in events]
    assert (said.count("returned"), said.count("stopped")) == (2, 1)
    assert result.progress.finished
    # Eight updates before each return and before the end, three in an epoch.
    assert (result.progress.returns, result.progress.epoch) == (2, 8)
    assert len(handed_over) == 3
    assert {example.name for example in handed_over[0].batch[0]} <= set(problem.pairs)
    assert (handed_over[0].epoch, handed_over[0].step, handed_over[0].in_a_row) == (3, 0, 8)
    assert leaves_equal(handed_over[0].theta, problem.start)
    assert leaves_equal(result.theta, problem.start)


def test_what_ran_away_goes_back_and_on_with_a_smaller_rate(problem, stage, tmp_path):
    """A pull of one that is usable up to a length only: steps of 1 leave the well, steps of 0.3 stay in it."""
    start = problem.start._replace(potential={"x": jnp.asarray(0.0)}, rule=())

    def value_and_grad(theta, example):
        del example
        x = theta.potential["x"]
        value = jnp.where(x < 2.4, -x, jnp.nan)
        return (value, jnp.zeros((), jnp.int32)), theta._replace(potential={"x": -jnp.ones(())})

    events, visited = [], []

    def validate(theta):
        visited.append(float(theta.potential["x"]))
        return -visited[-1] if visited[-1] < 1.5 else float("nan")

    pull = Stage(
        "pull",
        terms(Objective(value_and_grad)),
        optax.sgd(1.0),
        batches_of(lambda epoch: [Example("one", np.zeros(()))]),
        epochs=30,
    )
    found = fit(pull, start, validate, tmp_path, on_event=events.append)
    assert found.progress.returns == 2
    # Up by 1 to 3 where nothing is usable, back to 1, on by 0.3 beyond 1.5, and from there by 0.09.
    expected = [0.0, 1.0, 2.0, *[3.0] * 8, 1.0, 1.3, 1.6, 1.9, 2.2, *[2.5] * 8, 1.3, 1.39, 1.48, 1.57]
    np.testing.assert_allclose(visited[: len(expected)], expected, atol=1e-6)
    assert float(found.theta.potential["x"]) == pytest.approx(1.48)
    returned = [event["reason"] for event in events if event["event"] == "returned"]
    assert "with 0.3 of the learning rate" in returned[0]
    assert "with 0.09 of the learning rate" in returned[1]


FULL = "RESOURCE_EXHAUSTED: Error writing local file: Failed to write 115 bytes to file 7: No space left on device"
"""What a save to a full disk raises, as recorded on a tmpfs of 200 kB: TensorStore's words, or the system's."""


@pytest.mark.parametrize("error", [ValueError(FULL), OSError(errno.ENOSPC, "No space left on device")])
def test_a_full_disk_costs_no_training(problem, stage, validate, tmp_path, monkeypatch, error):
    whole = fit(stage, problem.start, validate, tmp_path / "whole")
    save, saves = ocp.CheckpointManager.save, iter(range(100))

    def full_after_the_first(manager, *args, **options):
        if next(saves) < 1:
            return save(manager, *args, **options)
        half = tmp_path / "full" / "7.orbax-checkpoint-tmp"
        half.mkdir()
        (half / "part").write_bytes(b"0" * 100)
        raise error

    events = []
    monkeypatch.setattr(ocp.CheckpointManager, "save", full_after_the_first)
    found = fit(stage, problem.start, validate, tmp_path / "full", on_event=events.append)
    assert leaves_equal(found.theta, whole.theta)
    told = [event["reason"] for event in events if event["event"] == "not_saved"]
    assert len(told) == 4
    assert "No space left on device: no checkpoint could be written to" in told[0]
    assert not (tmp_path / "full" / "7.orbax-checkpoint-tmp").exists()
    # Asked to stop where nothing can be saved: that is said, and is no ordinary interruption.
    with pytest.raises(StorageError, match="what came after the last checkpoint is lost.*--resume"):
        fit(stage, problem.start, validate, tmp_path / "full", should_stop=lambda: True)
    # Once there is room it goes on from the last good checkpoint, after the first epoch.
    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    again = []
    resumed = fit(stage, problem.start, validate, tmp_path / "full", on_event=again.append)
    assert leaves_equal(resumed.theta, whole.theta)
    assert next(event["step"] for event in again if event["event"] == "step") == 4


def test_a_damaged_checkpoint_gives_way_to_the_one_before(problem, stage, validate, tmp_path):
    whole = fit(stage, problem.start, validate, tmp_path)
    newest = max(
        (folder for folder in tmp_path.iterdir() if folder.name.isdigit()), key=lambda f: int(f.name)
    )
    (newest / "meta" / "metadata").write_text("{")
    events = []
    again = fit(stage, problem.start, validate, tmp_path, on_event=events.append)
    assert leaves_equal(again.theta, whole.theta)
    told = next(event["reason"] for event in events if event["event"] == "damaged")
    assert f"{newest} is damaged" in told
    assert "put aside as" in told


def test_compiling_is_no_training_time_for_any_form_of_an_example(problem, stage, tmp_path):
    """Pairs with a given and with a free cell have a program each."""

    def objective(theta, pair):
        time.sleep(0.4)  # while it is traced
        return (jnp.zeros(()), jnp.zeros((), jnp.int32)), jax.tree.map(jnp.zeros_like, theta)

    name, pair = next(iter(problem.pairs.items()))
    forms = [Example(name, pair), Example(name, pair._replace(relaxed_cell=pair.system.cell))]
    mixed = dataclasses.replace(
        stage, terms=terms(Objective(objective)), batches=batches_of(lambda epoch: forms * 2), epochs=1
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
            terms=terms(Objective(stale, through_rebuilds)),
            batches=batches_of(lambda epoch: [Example(name, pair)] * 3),
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
        stage,
        terms=terms(Objective(objective)),
        batches=batches_of(lambda epoch: [Example(name, pair)] * 2),
        epochs=1,
        optimizer=optax.sgd(0.1),
    )
    fit(twice, weak, lambda theta: 0.0, tmp_path)
    assert len(traced) == 1


def test_an_update_is_the_weighted_sum_of_the_means_of_its_terms(problem, tmp_path):
    """And the last batch of an epoch may be smaller."""
    names = list(problem.pairs)
    scores = itertools.count()

    def pull(strength):
        def value_and_grad(theta, number):
            return (number, jnp.asarray(int(Outcome.RUNNING))), jax.tree.map(
                lambda leaf: strength * number * jnp.ones_like(leaf), theta
            )

        return Gradients([Objective(value_and_grad)])

    def batches(epoch, first):
        numbers = [[1.0, 3.0], [5.0]]
        beside = [[10.0], [20.0, 40.0, 60.0]]
        return [
            tuple(tuple(Example(names[0], np.asarray(x)) for x in part) for part in pair)
            for pair in zip(numbers, beside, strict=True)
        ][first:]

    stage = Stage("toy", (Term(pull(1.0)), Term(pull(2.0), 0.5)), optax.sgd(1.0), batches, epochs=1)
    found = fit(stage, problem.start, lambda theta: -next(scores), tmp_path)
    moved = float(found.theta.potential["lam"] - problem.start.potential["lam"])
    assert moved == pytest.approx(-(2.0 + 10.0 + 5.0 + 40.0), rel=1e-12)
    assert found.progress.examples == 3


def test_validation_waits_for_enough_updates(problem, stage, tmp_path):
    events = []
    rare = dataclasses.replace(stage, epochs=5, validate_every=7)
    fit(rare, problem.start, lambda theta: 0.0, tmp_path, on_event=events.append)
    # Three updates an epoch: after nine, and at the end.
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [0, 3, 5]


def test_a_start_whose_score_is_not_finite_is_beaten(problem, stage, tmp_path):
    scores = iter([float("nan"), 3.0, float("nan"), 2.0, 5.0])
    found = fit(stage, problem.start, lambda theta: next(scores), tmp_path)
    assert found.progress.score == 2.0
    assert found.progress.best_epoch == 3


def test_the_device_does_not_wait_for_the_next_batch(problem, stage, tmp_path):
    """Batches are made while the gradient is taken, and what is waited for them is said."""
    name, pair = next(iter(problem.pairs.items()))

    def slow_gradient(theta, pair):
        def wait(x):
            time.sleep(0.1)
            return x

        value = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.zeros(()).dtype), jnp.zeros(()))
        return (value, jnp.zeros((), jnp.int32)), jax.tree.map(jnp.zeros_like, theta)

    def batches(epoch, first):
        for _ in range(8):
            time.sleep(0.05)
            yield ((Example(name, pair),),)

    busy = dataclasses.replace(stage, terms=terms(Objective(slow_gradient)), batches=batches, epochs=1)
    events = []
    fit(busy, problem.start, lambda theta: 0.0, tmp_path, on_event=events.append)
    share = next(e["waited_share"] for e in events if e["event"] == "epoch" and e["epoch"] == 1)
    assert share < 0.1
