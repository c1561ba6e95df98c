import pytest

from bptt_relax.report.curves import learning, moving_average


@pytest.mark.parametrize("tag_seeds", [True, False])
def test_seeds_are_told_apart(make_events, tag_seeds):
    curves = learning(make_events(3, tag_seeds=tag_seeds))
    assert [(curve.stage, curve.seed) for curve in curves] == [
        (stage, seed) for seed in range(3) for stage in ("force_matching", "bptt", "control")
    ]
    assert all(
        len(curve.epochs) == {"force_matching": 5, "bptt": 9, "control": 15}[curve.stage] for curve in curves
    )


def test_what_starts_at_the_end_of_force_matching_comes_after_it(make_events):
    matching, bptt, control = learning(make_events())
    assert matching.offset == 0.0
    assert bptt.offset == control.offset == matching.end > 0.0
    assert bptt.best == min(bptt.epochs, key=lambda entry: entry[2])


def test_bptt_from_the_pretrained_model_starts_at_zero(make_events):
    events = make_events()
    for event in events:
        if event["stage"] == "bptt" and event["event"] == "epoch" and event["epoch"] == 0:
            event["validation"] = 1.9
    _, bptt, control = learning(events)
    assert bptt.offset == 0.0
    assert control.offset > 0.0


def test_what_an_interruption_repeats_counts_once(make_events):
    events = [event for event in make_events() if event["stage"] == "bptt"]
    cut = next(i for i, event in enumerate(events) if event["event"] == "epoch" and event["epoch"] == 5)
    # Killed in epoch 6, resumed from the end of epoch 5; the first step after it compiles and takes no training time.
    gap = events[cut + 1]["seconds"] - events[cut]["seconds"]
    resumed = [event | {"seconds": event["seconds"] - gap} for event in events[cut + 1 :]]
    assert learning([*events[: cut + 6], *resumed]) == learning([*events[: cut + 1], *resumed])
    # Killed before the first checkpoint: starts over.
    for tagged in (events, [{k: v for k, v in event.items() if k != "seed"} for event in events]):
        assert learning([*tagged[:5], *tagged]) == learning(tagged)


def test_updates_without_a_loss_are_left_out():
    (curve,) = learning(
        [
            {"event": "step", "stage": "bptt", "loss": None, "seconds": 0.5},
            {"event": "step", "stage": "bptt", "loss": float("nan"), "seconds": 0.7},
            {"event": "step", "stage": "bptt", "loss": 2.0, "seconds": 1.0},
            {"event": "epoch", "stage": "bptt", "epoch": 1, "validation": None, "seconds": 1.0},
            {"event": "skip", "stage": "bptt", "structure": "a"},
        ]
    )
    assert curve.steps == [(1.0, 2.0)]
    assert curve.epochs == []
    assert curve.best is None
    assert curve.end == 1.0
    assert learning([]) == []


def test_moving_average():
    assert moving_average([0.0, 3.0, 6.0, 3.0], 3) == [1.5, 3.0, 4.0, 4.5]
