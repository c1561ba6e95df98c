"""Which relaxations each arm learns from: nested sets, repeated so that epochs are equally long."""

import math

import numpy as np

from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError


def subset(corpus: Corpus, size: int, draw: int, least_unrolls: int) -> Corpus:
    """The first relaxations in a random order that only the draw decides.

    Args:
        corpus: whose training relaxations are drawn from.
        size: number of relaxations.
        draw: another number, another order.
        least_unrolls: they are repeated until there are at least so many.

    Raises:
        InputError: there are not so many relaxations to learn from.
    """
    pool = sorted(corpus.split.train)
    if size > len(pool):
        raise InputError(f"{size} relaxations to learn from, but there are {len(pool)}: leave that size out")
    order = np.random.default_rng([draw, 2512, 1067]).permutation(len(pool))
    names = tuple(pool[index] for index in order[:size])
    return corpus._replace(split=corpus.split._replace(train=names * math.ceil(least_unrolls / size)))


def end_frames_alone(corpus: Corpus) -> Corpus:
    """The same corpus without what happens between start and end of the relaxations to learn from.

    They are repeated further, so that an epoch has as many updates as one with all ionic steps.
    """
    chosen = set(corpus.split.train)
    relaxations = [_ends(r) if r.name in chosen else r for r in corpus.relaxations]
    train = corpus.select(corpus.split.train)
    steps = sum(len(r.frames) - r.start for r in train)
    times = max(1, round(steps / (2 * len(train))))
    return corpus._replace(
        sha256=f"{corpus.sha256}, first and last steps",
        relaxations=relaxations,
        split=corpus.split._replace(train=corpus.split.train * times),
    )


def _ends(relaxation: Relaxation) -> Relaxation:
    kept = [relaxation.start, len(relaxation.frames) - 1]

    def ends(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[kept]

    return relaxation._replace(
        frames=tuple(relaxation.frames[index] for index in kept),
        energies=ends(relaxation.energies),
        forces=ends(relaxation.forces),
        stresses=ends(relaxation.stresses),
        start=0,
    )
