"""The loop around a train step: epochs, validation, the best model, checkpoints, time, interruption."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from bptt_relax._types import PyTree
from bptt_relax.analysis import is_out_of_memory
from bptt_relax.outcomes import Outcome, explain
from bptt_relax.relax import Theta
from bptt_relax.training.checkpoints import Checkpoints
from bptt_relax.training.train_step import Objective, StepReport, TrainState, apply_gradient, init_state

EventFn = Callable[[dict[str, Any]], None]

MOST_SKIPPED_IN_A_ROW = 8


@dataclass(frozen=True)
class Example:
    """One thing to learn from, with the name messages call it."""

    name: str
    data: PyTree


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: in metrics and folders.
        objective: what is minimized.
        optimizer: an Optax transformation.
        examples: epoch -> examples; must give the same ones when called again, so that a resumed run goes on
            where it stopped.
        epochs: so many, unless time decides; the schedule of the learning rate goes by them either way.
        seconds: where finite, stop after this much training time (steps only: neither compilation nor validation) and
            not before, however many epochs that takes.
        averaging: weight of the past in the moving average of theta that is validated and returned; 0 for none.
    """

    name: str
    objective: Objective
    optimizer: optax.GradientTransformation
    examples: Callable[[int], Iterable[Example]]
    epochs: int
    seconds: float = float("inf")
    averaging: float = 0.0

    def is_over(self, progress: "Progress") -> bool:
        """Nothing is left to do. Epochs can't tell where time does: how many fit into it was a guess."""
        if math.isfinite(self.seconds):
            return progress.seconds >= self.seconds
        return progress.epoch >= self.epochs


@dataclass
class Progress:
    """Where a stage stands; saved with every checkpoint.

    Attributes:
        epoch: epochs completed.
        cursor: examples done in the epoch under way.
        seconds: training time so far.
        score: of the best model so far, lower is better.
        best_epoch: where it was found; 0 is the model the stage started from.
        skipped: updates not applied, by structure.
        finished: nothing is left to do.
    """

    epoch: int = 0
    cursor: int = 0
    seconds: float = 0.0
    score: float = float("inf")
    best_epoch: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    finished: bool = False


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves behind: the best model on the validation set, and the way there."""

    theta: Theta
    progress: Progress


class Interrupted(Exception):  # noqa: N818 - like KeyboardInterrupt, not an error
    """The user asked to stop; everything done so far is saved."""


def fit(
    stage: Stage,
    theta: Theta,
    validate: Callable[[Theta], float],
    folder: Path,
    *,
    on_event: EventFn = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> StageResult:
    """Train, keep the model that validates best, and be ready to be killed at any moment.

    The starting model is the first candidate, so the result is never worse than it on the validation set. An
    update whose loss or gradient is not finite is skipped, reported with the structure's name, and cannot become
    a checkpoint. Where memory runs out, the update is made again with the objective's leaner gradient, and so is
    every one after it.

    Args:
        stage: what to do.
        theta: where to start.
        validate: score of a model, lower is better.
        folder: for checkpoints; a stage found there is continued, a finished one returned at once.
        on_event: gets a dict for every step, epoch and skip.
        should_stop: asked after every step.

    Raises:
        Interrupted: ``should_stop`` said so; the state is saved.
        MemoryError: memory ran out and the objective has no leaner gradient.
    """
    objective = stage.objective
    checkpoints = Checkpoints(folder)
    try:
        state = init_state(theta, stage.optimizer)
        best, progress = state.theta, Progress()
        if checkpoints.newest() is not None:
            (state, best), meta = checkpoints.restore((state, best))
            progress = Progress(**meta)
        if progress.finished:
            return StageResult(best, progress)
        if progress.epoch == 0 and progress.cursor == 0:
            progress.score = validate(state.theta)
            on_event(
                {
                    "event": "epoch",
                    "stage": stage.name,
                    "epoch": 0,
                    "validation": progress.score,
                    "best": True,
                }
            )

        def save() -> None:
            number = progress.epoch * 100_000 + progress.cursor + (50_000 if progress.finished else 0)
            checkpoints.save(number, (state, best), vars(progress).copy())

        # Each form of an example, as a given and a free cell, has a program of its own, and another one through
        # rebuilds: each is compiled when it is first needed.
        unapplied, compiled = 0, set()
        while not stage.is_over(progress):
            losses = []
            for index, example in enumerate(stage.examples(progress.epoch)):
                if index < progress.cursor:
                    continue
                start = time.perf_counter()
                (state, report, rebuilt), objective = _within_memory(
                    stage, objective, state, example, on_event
                )
                took = time.perf_counter() - start
                programs = {(jax.tree.structure(example.data), through) for through in {False, rebuilt}}
                progress.seconds += took if programs <= compiled else 0.0
                compiled |= programs
                progress.cursor = index + 1
                if bool(report.applied):
                    unapplied = 0
                    losses.append(float(report.loss))
                else:
                    unapplied += 1
                    progress.skipped[example.name] = progress.skipped.get(example.name, 0) + 1
                    on_event(_skip_event(stage, progress, example, report))
                on_event(
                    {
                        "event": "step",
                        "stage": stage.name,
                        "epoch": progress.epoch + 1,
                        "step": int(state.step),
                        "structure": example.name,
                        "loss": float(report.loss),
                        "grad_norm": float(report.grad_norm),
                        "seconds": progress.seconds,
                    }
                )
                if should_stop():
                    save()
                    raise Interrupted(stage.name)
                if progress.seconds >= stage.seconds or unapplied >= MOST_SKIPPED_IN_A_ROW:
                    break
            progress.epoch, progress.cursor = progress.epoch + 1, 0
            score = validate(state.average)
            improved = score < progress.score
            if improved:
                best, progress.score, progress.best_epoch = state.average, score, progress.epoch
            on_event(
                {
                    "event": "epoch",
                    "stage": stage.name,
                    "epoch": progress.epoch,
                    "loss": sum(losses) / max(len(losses), 1),
                    "validation": score,
                    "best": improved,
                    "seconds": progress.seconds,
                }
            )
            if unapplied >= MOST_SKIPPED_IN_A_ROW:
                on_event(
                    {
                        "event": "stopped",
                        "stage": stage.name,
                        "reason": f"{unapplied} updates in a row were unusable",
                    }
                )
                break
            save()
        progress.finished = True
        save()
        return StageResult(best, progress)
    finally:
        checkpoints.close()


class _Update(NamedTuple):
    """An update that was made.

    Attributes:
        state: after it.
        report: what it had to say.
        rebuilt: the gradient was taken through rebuilds.
    """

    state: TrainState
    report: StepReport
    rebuilt: bool


def _within_memory(
    stage: Stage, objective: Objective, state: TrainState, example: Example, on_event: EventFn
) -> tuple[_Update, Objective]:
    """One train step with the first of the objective and its leaner forms that memory suffices for; and which."""
    while True:
        try:
            return _one_update(stage, objective, state, example), objective
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if objective.leaner is None:
                raise MemoryError(
                    f"{stage.name}: out of memory on {example.name}, even with {objective.label}. Take fewer "
                    "training steps, leave out the largest structures, or use a larger machine; --resume goes on"
                ) from error
            on_event(
                {
                    "event": "out_of_memory",
                    "stage": stage.name,
                    "structure": example.name,
                    "tried": objective.label,
                    "instead": objective.leaner.label,
                }
            )
            objective = objective.leaner


def _one_update(stage: Stage, objective: Objective, state: TrainState, example: Example) -> _Update:
    """One train step in two compiled halves: stages that share an objective share its compiled gradient.

    Where the neighbors went stale on the way, the gradient is taken again through rebuilds on the host.
    """
    (value, outcome), gradient = jax.jit(objective.value_and_grad)(state.theta, example.data)
    rebuilt = False
    if int(outcome) == Outcome.STALE_NEIGHBORS and objective.through_rebuilds is not None:
        (value, outcome), gradient = objective.through_rebuilds(state.theta, example.data)
        rebuilt = True
    update = jax.jit(apply_gradient, static_argnames=("optimizer", "averaging"))
    state, report = jax.block_until_ready(
        update(state, value, outcome, gradient, optimizer=stage.optimizer, averaging=stage.averaging)
    )
    return _Update(state, report, rebuilt)


def _skip_event(stage: Stage, progress: Progress, example: Example, report) -> dict[str, Any]:
    reason = "loss or gradient is not finite"
    if int(report.outcome) >= Outcome.STALE_NEIGHBORS:
        reason = explain(report.outcome)
    return {
        "event": "skip",
        "stage": stage.name,
        "epoch": progress.epoch + 1,
        "structure": example.name,
        "reason": reason,
        "loss": float(report.loss),
        "grad_norm": float(report.grad_norm),
    }
