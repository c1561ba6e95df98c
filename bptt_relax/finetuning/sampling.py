"""What each update of training sees: which relaxations from which starts, and which ionic steps beside them.

Every process draws the same examples. Making one, with its neighbor list, is left to whoever takes its gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bptt_relax.finetuning.preparation import IonicStep, Preparation
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.systems import Pair, Structure
from bptt_relax.training import Batch, Example, ReplayFrame

Batches = Callable[[int, int], Iterator[Batch]]
"""(epoch, first) -> batches of an epoch from that one on; the same each time they are asked for."""


@dataclass(frozen=True)
class Starts:
    """Where unrolls start in training: they decide which basins the gradient sees.

    Attributes:
        from_initial: share that starts at the initial structure.
        from_ionic_step: share that starts at a random ionic step; the rest at the rattled reference structure.
        rattle: range of the standard deviation of the rattle, angstrom.
        strain: standard deviation of the components of the strain that goes with it where the cell is relaxed too.
    """

    from_initial: float
    from_ionic_step: float
    rattle: tuple[float, float]
    strain: float = 0.0

    def draw(self, relaxation: Relaxation, rng: np.random.Generator) -> Structure:
        """One starting structure."""
        choice = rng.uniform()
        if choice < self.from_initial:
            return relaxation.initial
        if choice < self.from_initial + self.from_ionic_step:
            return relaxation.frames[int(rng.integers(relaxation.start, len(relaxation.frames) - 1))]
        noise = rng.normal(scale=rng.uniform(*self.rattle), size=relaxation.relaxed.positions.shape)
        target = relaxation.relaxed
        rattled = target._replace(positions=target.positions + np.where(target.free, noise, 0.0))
        return (
            strained(rattled, rng.normal(scale=self.strain, size=6)) if changes_cell(relaxation) else rattled
        )


def strained(structure: Structure, strain: np.ndarray) -> Structure:
    """A structure under a strain (6,) in ASE's order xx, yy, zz, yz, xz, xy; axes without periods stay."""
    xx, yy, zz, yz, xz, xy = strain
    stretch = np.eye(3) + np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    cell = np.where(structure.pbc[:, None], structure.cell @ stretch, structure.cell)
    fractional = structure.positions @ np.linalg.inv(structure.cell)
    return structure._replace(positions=fractional @ cell, cell=cell)


def batches_of_relaxations(
    preparation: Preparation, relaxations: Sequence[Relaxation], starts: Starts, batch_size: int, seed: int
) -> Batches:
    """One unroll per relaxation and epoch, in random order from random starts; the last batch may be smaller.

    Args:
        preparation: of the relaxations.
        relaxations: to learn from; one that occurs twice has two unrolls.
        starts: where they start.
        batch_size: relaxations per update.
        seed: of order and starts.
    """

    def batches(epoch: int, first: int) -> Iterator[Batch]:
        order = np.random.default_rng([seed, epoch, 1]).permutation(len(relaxations))
        for begin in range(first * batch_size, len(order), batch_size):
            yield (tuple(example(epoch, int(k)) for k in order[begin : begin + batch_size]),)

    def example(epoch: int, index: int) -> Example:
        relaxation = relaxations[index]

        def make() -> Pair:
            # Drawn per relaxation, so that resuming within an epoch meets the same starts.
            rng = np.random.default_rng([seed, epoch, 2, index])
            return preparation.pair(relaxation, starts.draw(relaxation, rng))

        return Example(relaxation.name, make)

    return batches


def batches_of_ionic_steps(
    preparation: Preparation, steps: Sequence[IonicStep], batch_size: int, seed: int
) -> Batches:
    """All ionic steps in random order; an incomplete batch at the end is left out.

    Args:
        preparation: of the relaxations.
        steps: to learn from.
        batch_size: ionic steps per update, at most as many as there are.
        seed: of the order.
    """

    def batches(epoch: int, first: int) -> Iterator[Batch]:
        order = np.random.default_rng([seed, epoch, 3]).permutation(len(steps))
        whole = len(steps) // batch_size
        for chosen in order[: whole * batch_size].reshape(whole, batch_size)[first:]:
            yield (tuple(labelled(preparation, steps[index]) for index in chosen),)

    return batches


def beside(
    batches: Batches, draw: Callable[[np.random.Generator, int], Sequence[Example]], seed: int
) -> Batches:
    """Batches with one term more.

    Args:
        batches: with the examples of the terms so far.
        draw: (random numbers, examples of the first term) -> examples of the new one.
        seed: another one for each term, or their draws would repeat each other.
    """

    def more(epoch: int, first: int) -> Iterator[Batch]:
        for index, batch in enumerate(batches(epoch, first), start=first):
            rng = np.random.default_rng([seed, epoch, 4, index])
            yield *batch, tuple(draw(rng, len(batch[0])))

    return more


def random_ionic_steps(preparation: Preparation, steps: Sequence[IonicStep], least: int):
    """A draw of as many ionic steps as there are examples of the first term, at least so many."""

    def draw(rng: np.random.Generator, beside: int) -> list[Example]:
        chosen = rng.integers(len(steps), size=max(least, beside))
        return [labelled(preparation, steps[index]) for index in chosen]

    return draw


def random_replay(frames: Sequence[ReplayFrame], count: int):
    """A draw of so many structures that the pretrained model knew."""

    def draw(rng: np.random.Generator, beside: int) -> list[Example]:
        del beside
        return [Example("replay", frames[index]) for index in rng.integers(len(frames), size=count)]

    return draw


def labelled(preparation: Preparation, step: IonicStep) -> Example:
    """An ionic step as an example, with the name of its relaxation."""
    return Example(step.relaxation.name, lambda: preparation.frame(step))
