"""The loop around a train step: epochs, validation, the best model, checkpoints, time, interruption.

Of several processes each draws the same batches and takes the gradients of its share of every batch. Sums of gradients,
and whatever decides how to go on, are put together once per update: all make the same updates and stop at the same one.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bptt_relax import distributed
from bptt_relax._types import Array
from bptt_relax.outcomes import Interrupted, StorageError
from bptt_relax.relax import Theta
from bptt_relax.training.checkpoints import Checkpoints
from bptt_relax.training.gradients import BatchGradient, EventFn, Example, Gradients, LeftOut
from bptt_relax.training.packing import Packed, pack_on_host
from bptt_relax.training.prefetch import Prefetched
from bptt_relax.training.train_step import TrainState, apply_gradient, init_state
from bptt_relax.trees import global_norm

MOST_SKIPPED_IN_A_ROW = 8
"""Updates without one usable example, or with a gradient that is not finite, before a stage goes back."""

MOST_RETURNS = 2
"""So often a stage goes back to its last good state before it gives up."""

RATE_AFTER_RETURN = 0.3
"""Of the learning rate, each time."""

Batch = tuple[Sequence[Example], ...]
"""What one update sees: the examples of each term of the loss."""


class Term(NamedTuple):
    """One part of the loss: the mean of an objective over its examples of the batch, times a weight.

    Attributes:
        gradients: of the objective.
        weight: in the loss.
    """

    gradients: Gradients
    weight: float = 1.0


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: in metrics and folders.
        terms: of the loss; without a usable example of the first there is no update.
        optimizer: an Optax transformation of theta in packed form (`packing`), as `fine_tuning` makes it of packed
            masks.
        batches: epoch, first -> batches from that one on; must give the same ones when called again, so that a
            resumed run goes on where it stopped.
        epochs: so many, unless time decides; the schedule of the learning rate goes by them either way.
        seconds: where finite, stop after this much training time (updates only: neither compilation nor validation)
            and not before, however many epochs that takes.
        averaging: weight of the past in the moving average of theta that is validated and returned; 0 for none.
        validate_every: least number of updates from one validation to the next; they are made at the ends of epochs.
    """

    name: str
    terms: tuple[Term, ...]
    optimizer: optax.GradientTransformation
    batches: Callable[[int, int], Iterable[Batch]]
    epochs: int
    seconds: float = float("inf")
    averaging: float = 0.0
    validate_every: int = 1

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
        cursor: batches done in the epoch under way.
        seconds: training time so far.
        waited: part of it in which the next batch was not ready yet.
        examples: of the first term, used so far.
        since_validation: updates.
        score: of the best model so far, lower is better.
        best_epoch: where it was found; 0 is the model the stage started from.
        skipped: how often an example could not be used, by name.
        returns: how often it went back to its last good state.
        finished: nothing is left to do.
    """

    epoch: int = 0
    cursor: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    examples: int = 0
    since_validation: int = 0
    score: float = float("inf")
    best_epoch: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    returns: int = 0
    finished: bool = False


class BadUpdate(NamedTuple):
    """The last of several updates in a row that could not be used, with all that it takes to repeat it.

    Attributes:
        stage: its name.
        epoch: the one under way, from 1.
        number: of the update in it, from 1.
        step: updates applied before.
        theta: the model, as the stage trains it.
        batch: of this process, the examples of each term with their data.
        weights: of the terms.
        left_out: examples that could not be used, of all processes.
        in_a_row: how many updates.
    """

    stage: str
    epoch: int
    number: int
    step: int
    theta: Theta
    batch: Batch
    weights: tuple[float, ...]
    left_out: tuple[LeftOut, ...]
    in_a_row: int


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves behind: the best model on the validation set, and the way there."""

    theta: Theta
    progress: Progress


def fit(
    stage: Stage,
    theta: Theta,
    validate: Callable[[Theta], float],
    folder: Path,
    *,
    on_event: EventFn = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    on_bad_updates: Callable[[BadUpdate], None] = lambda update: None,
) -> StageResult:
    """Train, keep the model that validates best, and be ready to be killed at any moment.

    The starting model is the first candidate, so the result is never worse than it on the validation set. An example
    whose loss or gradient is not finite is left out of its update and reported by name. Where nothing can be used any
    more, training goes back to the last state that validated to a finite score, with a smaller learning rate; after
    some such returns it ends.

    Args:
        stage: what to do.
        theta: where to start.
        validate: score of a model, lower is better.
        folder: for checkpoints; a stage found there is continued, a finished one returned at once.
        on_event: gets a dict for every update, epoch and example left out.
        should_stop: asked after every update.
        on_bad_updates: gets the last of several updates in a row that could not be used.

    Raises:
        Interrupted: ``should_stop`` said so; the state is saved.
        StorageError: likewise, but there was no room for the state.
        MemoryError: memory does not suffice for a single example.
    """
    with Checkpoints(folder) as checkpoints:
        return _Fit(stage, theta, validate, checkpoints, on_event, should_stop, on_bad_updates).run()


class Sum(NamedTuple):
    """Gradients of one term, added up over the examples of all processes that could be used.

    Attributes:
        total: sum of their gradients.
        loss: sum of their losses.
        count: how many they are.
    """

    total: Packed
    loss: float
    count: int


class Update(NamedTuple):
    """What all processes know of an update.

    Attributes:
        seconds: that it took, waiting for the next batch included.
        waited: for the next batch.
        compiled: a program was compiled in one of them.
        stop: one of them was asked to stop.
        left_out: examples that could not be used.
    """

    seconds: float
    waited: float
    compiled: bool
    stop: bool
    left_out: list[LeftOut]


class _Fit:
    """One stage under way."""

    def __init__(self, stage, theta, validate, checkpoints, on_event, should_stop, on_bad_updates):
        self.stage, self.validate, self.checkpoints = stage, validate, checkpoints
        self.should_stop, self.on_bad_updates = should_stop, on_bad_updates
        self.emit = lambda event, **rest: on_event({"event": event, "stage": stage.name, **rest})
        for term in stage.terms:
            term.gradients.on_event = lambda event: on_event({**event, "stage": stage.name})
        self.place = stage.terms[0].gradients.replicate
        self.state = self.place(init_state(jax.device_put(pack_on_host(theta)), stage.optimizer))
        self.best, self.good, self.progress = self.state.theta, self.state, Progress()
        self.update = jax.jit(partial(_update, stage))
        self.unusable = 0

    def run(self) -> StageResult:
        if self.checkpoints.newest() is not None:
            restored, meta = self.checkpoints.restore((self.state, self.best))
            for sentence in self.checkpoints.damaged:
                self.emit("damaged", reason=sentence)
            self.state, self.best = self.place(restored)
            self.good, self.progress = self.state, Progress(**meta)
        progress = self.progress
        if progress.finished:
            return StageResult(_unpacked(self.best), progress)
        if progress.epoch == 0 and progress.cursor == 0:
            progress.score = self._score(_unpacked(self.state.theta))
            self.emit("epoch", epoch=0, validation=progress.score, best=True)
        while not self.stage.is_over(progress) and self.unusable < MOST_SKIPPED_IN_A_ROW:
            losses = self._epoch()
            if self.unusable >= MOST_SKIPPED_IN_A_ROW and progress.returns < MOST_RETURNS:
                self._go_back()
                continue  # With what is left of the epoch.
            progress.epoch, progress.cursor = progress.epoch + 1, 0
            over = self.stage.is_over(progress) or self.unusable >= MOST_SKIPPED_IN_A_ROW
            if over or progress.since_validation >= self.stage.validate_every:
                self._validate(losses)
                self._save()
        if self.unusable >= MOST_SKIPPED_IN_A_ROW:
            self.emit(
                "stopped",
                reason=f"{self.unusable} updates in a row could not be used, after {progress.returns} returns to the "
                "last good state: the best model before is kept. Take a smaller learning rate or step size, or leave "
                f"out {', '.join(list(progress.skipped)[:3]) or 'what is not finite'}",
            )
        progress.finished = True
        self._save()
        return StageResult(_unpacked(self.best), progress)

    def _epoch(self) -> list[float]:
        """Updates to the end of the epoch, or of the time."""
        stage, progress, losses = self.stage, self.progress, []
        with Prefetched(_shares(stage.batches(progress.epoch, progress.cursor))) as batches:
            for structure, batch in batches:
                waited, batches.waited = batches.waited, 0.0
                start = time.perf_counter()
                found = _gradients(stage, self.state.theta, batch)
                sums = _add_up(self.state.theta, found)
                applied, norm = self._apply(sums)
                update = _agree(found, waited, time.perf_counter() - start, self.should_stop())
                if not update.compiled:
                    progress.seconds += update.seconds
                    progress.waited += update.waited
                progress.cursor += 1
                progress.since_validation += 1
                progress.examples += sums[0].count
                loss = _loss(stage, sums)
                if applied:
                    losses.append(loss)
                self.unusable = 0 if applied else self.unusable + 1
                if self.unusable == MOST_SKIPPED_IN_A_ROW:
                    self._hand_over(batch, update.left_out)
                for left_out in update.left_out:
                    self._leave_out(left_out)
                self.emit(
                    "step",
                    epoch=progress.epoch + 1,
                    step=int(self.state.step),
                    structure=structure,
                    examples=sums[0].count,
                    loss=loss,
                    grad_norm=norm,
                    seconds=progress.seconds,
                )
                if update.stop:
                    if (failure := self._save()) is not None:
                        raise StorageError(
                            f"{failure}. Stopped, and what came after the last checkpoint is lost: make room, then go "
                            "on with the same command and --resume"
                        )
                    raise Interrupted(stage.name)
                if progress.seconds >= stage.seconds or self.unusable >= MOST_SKIPPED_IN_A_ROW:
                    break
        return losses

    def _apply(self, found: list[Sum]) -> tuple[bool, float]:
        """Update theta by the weighted mean gradients; whether that was possible, and the gradient's norm."""
        if not found[0].count:
            return False, math.nan
        used = [(part, term) for part, term in zip(found, self.stage.terms, strict=True) if part.count]
        gradient = _weighted_sum(
            [part.total for part, _ in used], [term.weight / part.count for part, term in used]
        )
        rate = RATE_AFTER_RETURN**self.progress.returns
        self.state, norm = self.update(self.state, gradient, rate)
        return math.isfinite(norm := float(norm)), norm

    def _hand_over(self, batch: Batch, left_out: list[LeftOut]) -> None:
        self.on_bad_updates(
            BadUpdate(
                self.stage.name,
                self.progress.epoch + 1,
                self.progress.cursor,
                int(self.state.step),
                _unpacked(self.state.theta),
                batch,
                tuple(term.weight for term in self.stage.terms),
                tuple(left_out),
                self.unusable,
            )
        )

    def _go_back(self) -> None:
        """To the last good state, with a smaller rate."""
        self.state, self.unusable = self.good, 0
        self.progress.returns += 1
        self.emit(
            "returned",
            epoch=self.progress.epoch + 1,
            reason=f"{MOST_SKIPPED_IN_A_ROW} updates in a row could not be used; back to the last good state, with "
            f"{RATE_AFTER_RETURN**self.progress.returns:.2g} of the learning rate",
        )

    def _validate(self, losses: list[float]) -> None:
        progress = self.progress
        score = self._score(_unpacked(self.state.average))
        if math.isfinite(score):
            self.good = self.state
        # A start whose score is not finite is beaten by any that is.
        improved = math.isfinite(score) and not score >= progress.score
        if improved:
            self.best, progress.score, progress.best_epoch = self.state.average, score, progress.epoch
        progress.since_validation = 0
        self.emit(
            "epoch",
            epoch=progress.epoch,
            loss=sum(losses) / max(len(losses), 1),
            validation=score,
            best=improved,
            seconds=progress.seconds,
            examples_per_s=progress.examples / progress.seconds if progress.seconds else None,
            waited_share=progress.waited / progress.seconds if progress.seconds else None,
        )

    def _score(self, theta: Theta) -> float:
        """The score that every process decides by."""
        score = self.validate(theta)
        return distributed.processes().of_first(lambda: score)

    def _leave_out(self, left_out: LeftOut) -> None:
        self.progress.skipped[left_out.name] = self.progress.skipped.get(left_out.name, 0) + 1
        self.emit(
            "skip",
            epoch=self.progress.epoch + 1,
            structure=left_out.name,
            reason=left_out.reason,
            loss=left_out.loss,
            grad_norm=left_out.grad_norm,
        )

    def _save(self) -> StorageError | None:
        """Save the state; where there is no room, say so and train on: the checkpoint before is still good."""
        progress = self.progress
        number = progress.epoch * 100_000 + progress.cursor + (50_000 if progress.finished else 0)
        try:
            self.checkpoints.save(number, (self.state, self.best), vars(progress).copy())
        except StorageError as error:
            if distributed.processes().count > 1:
                raise  # The others wait for this one within the save.
            self.emit("not_saved", reason=str(error))
            return error
        return None


def _shares(batches: Iterable[Batch]) -> Iterator[tuple[str, Batch]]:
    """What this process does of each batch, and what the batch is called."""
    share = distributed.processes().share
    for batch in batches:
        yield (
            _named(batch[0]),
            tuple(tuple(example.made() for example in share(examples)) for examples in batch),
        )


def _gradients(stage: Stage, theta: Packed, batch: Batch) -> list[BatchGradient]:
    """Of every term, all under way at once."""
    running = [
        term.gradients.submit(theta, examples) for term, examples in zip(stage.terms, batch, strict=True)
    ]
    return [collect() for collect in running]


def _add_up(theta: Packed, found: list[BatchGradient]) -> list[Sum]:
    """Of every term, over all processes."""
    sums = [
        Sum(jax.tree.map(jnp.zeros_like, theta) if part.total is None else part.total, part.loss, part.count)
        for part in found
    ]
    return [
        Sum(total, float(loss), int(count)) for total, loss, count in distributed.processes().add_up(sums)
    ]


def _agree(found: list[BatchGradient], waited: float, seconds: float, stop: bool) -> Update:
    """What only together is known of an update; the slowest process decides how long it took."""
    compiled = any(part.compiled for part in found)
    own = Update(waited + seconds, waited, compiled, stop, [each for part in found for each in part.left_out])
    said = [Update(*update) for update in distributed.processes().gather(own)]
    return Update(
        max(update.seconds for update in said),
        max(update.waited for update in said),
        any(update.compiled for update in said),
        any(update.stop for update in said),
        [LeftOut(*each) for update in said for each in update.left_out],
    )


def _loss(stage: Stage, found: list[Sum]) -> float:
    if not found[0].count:
        return math.nan
    return sum(
        term.weight * part.loss / part.count
        for term, part in zip(stage.terms, found, strict=True)
        if part.count
    )


def _named(examples: Sequence[Example]) -> str:
    """One example by its name, several by their number."""
    names = list(dict.fromkeys(example.name for example in examples))
    return names[0] if len(names) == 1 else f"{len(examples)} of {len(names)} structures"


def _unpacked(theta: Packed) -> Theta:
    """Ordinary parameters, for whoever relaxes with them."""
    return jax.device_put(jax.device_get(theta).unpack())


def _update(stage: Stage, state: TrainState, gradient: Packed, rate: Array) -> tuple[TrainState, Array]:
    """The next state and the norm of the gradient."""
    return apply_gradient(state, gradient, stage.optimizer, stage.averaging, rate), global_norm(gradient)


@jax.jit
def _weighted_sum(gradients: list[Packed], weights: list[float]) -> Packed:
    def add_up(*vectors: Array) -> Array:
        terms = [v * jnp.asarray(w, v.dtype) for v, w in zip(vectors, weights, strict=True)]
        return jnp.sum(jnp.stack(terms), axis=0)

    return jax.tree.map(add_up, *gradients)
