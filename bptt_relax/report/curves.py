"""Learning curves out of the events of a run, interruptions undone."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Curve:
    """How one stage of one seed went.

    Attributes:
        stage: its name.
        seed: which one, or the number of the repetition where events carry no seed.
        epochs: (epoch, training time in s, validation Delta Q in sqrt(u)*angstrom), epoch 0 being the start.
        steps: (training time in s, loss), updates that were skipped left out.
        offset: training time before this stage, s.
    """

    stage: str
    seed: int
    epochs: list[tuple[int, float, float]] = field(default_factory=list)
    steps: list[tuple[float, float]] = field(default_factory=list)
    offset: float = 0.0

    @property
    def best(self) -> tuple[int, float, float] | None:
        """The epoch that was kept: the first one with the lowest validation Delta Q."""
        return min(self.epochs, key=lambda entry: entry[2], default=None)

    @property
    def under_way(self) -> bool:
        """An epoch was completed: from here on there is a checkpoint."""
        return bool(self.epochs) and self.epochs[-1][0] > 0

    @property
    def end(self) -> float:
        """Training time at its end, stages before it included, s."""
        last = [self.epochs[-1][1]] if self.epochs else []
        last += [self.steps[-1][0]] if self.steps else []
        return self.offset + max(last, default=0.0)


def learning(events: Iterable[dict[str, Any]]) -> list[Curve]:
    """Gather the curves of a metrics file, in the order they began.

    What was repeated after an interruption counts once: an event with less training time than one before it
    replaces that one. Stages that start where force matching ended are put behind it in time.
    """
    curves: dict[tuple[str, Any], Curve] = {}
    repetition: dict[str, int] = {}
    for event in events:
        kind, stage = event.get("event"), event.get("stage")
        if kind not in ("step", "epoch") or stage is None:
            continue
        seed = event.get("seed")
        if seed is None:
            seed = repetition.setdefault(stage, 0)
            current = curves.get((stage, seed))
            # A stage that starts over before its first checkpoint is the same repetition still.
            if kind == "epoch" and event.get("epoch") == 0 and current and current.under_way:
                seed = repetition[stage] = seed + 1
        curve = curves.setdefault((stage, seed), Curve(stage, int(seed)))
        (_take_step if kind == "step" else _take_epoch)(curve, event)
    _put_in_line(list(curves.values()))
    return list(curves.values())


def moving_average(values: list[float], window: int) -> list[float]:
    """Mean over a centered window, which is cut short at both ends."""
    half = window // 2
    parts = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(part) / len(part) for part in parts]


def _take_step(curve: Curve, event: dict[str, Any]) -> None:
    seconds, loss = event.get("seconds") or 0.0, event.get("loss")
    while curve.steps and curve.steps[-1][0] > seconds:
        curve.steps.pop()
    if loss is not None and math.isfinite(loss):
        curve.steps.append((seconds, loss))


def _take_epoch(curve: Curve, event: dict[str, Any]) -> None:
    epoch, seconds = int(event.get("epoch", 0)), event.get("seconds") or 0.0
    while curve.epochs and curve.epochs[-1][0] >= epoch:
        curve.epochs.pop()
    if epoch == 0:
        curve.steps.clear()
    validation = event.get("validation")
    if validation is not None and math.isfinite(validation):
        curve.epochs.append((epoch, seconds, validation))


def _put_in_line(curves: list[Curve]) -> None:
    first = {curve.seed: curve for curve in curves if curve.stage == "force_matching"}
    for curve in curves:
        before = first.get(curve.seed)
        if curve is before or before is None or before.best is None or not curve.epochs:
            continue
        # The events don't say where a stage started; its model at epoch 0 does.
        if math.isclose(curve.epochs[0][2], before.best[2], rel_tol=1e-4):
            curve.offset = before.end
