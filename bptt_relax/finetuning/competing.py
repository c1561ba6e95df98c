"""Starts of one defect that a model sends to different minima: what the choice of a basin is judged by.

From one relaxation of the reference method many starts are made, all on or near its path, and all are asked to end
where it did. A model that the starts of a defect leave with a choice has more than one minimum there. Which defects
these are is found with one model, the pretrained one, before any other is tried; all starts of such a defect count,
whichever minimum it sends them to.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bptt_relax.finetuning.structures import offset_from_defect
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.training.evaluation import SAME_BASIN

FRACTIONS = (0.0, 0.25, 0.5, 0.75)
"""How far along the way from start to end of the reference method."""

RATTLE = 0.1
"""Standard deviation of the random displacements, angstrom."""

BREATHING = 0.1
"""By which fraction of their distance the neighbors of the defect are moved."""

SHELL = (0.5, 3.2)
"""Who the neighbors of the defect are, by their distance from its center, angstrom."""


class Ending(NamedTuple):
    """Where a model's relaxation of one start ended.

    Attributes:
        positions: (n, 3) angstrom.
        hit: it is the minimum of the reference method.
    """

    positions: np.ndarray
    hit: bool


def candidates(relaxation: Relaxation, fractions: Sequence[float] = FRACTIONS) -> list[Relaxation]:
    """Starts between the start and the end of a relaxation: as they are, rattled, squeezed and spread.

    Args:
        relaxation: of the reference method.
        fractions: how far along the way.

    Returns:
        relaxations of two frames, the start and the reference's end; the same ones each time.
    """
    initial, relaxed = relaxation.initial.positions, relaxation.relaxed.positions
    away = offset_from_defect(relaxation)
    found = []
    for fraction in fractions:
        between = initial + fraction * (relaxed - initial)
        offset = away + between - relaxed
        distance = np.linalg.norm(offset, axis=1, keepdims=True)
        breathing = np.where((distance > SHELL[0]) & (distance < SHELL[1]), BREATHING * offset, 0.0)
        name = f"{relaxation.name}@{fraction:g}"
        noise = np.random.default_rng(_number(name)).normal(scale=RATTLE, size=between.shape)
        for suffix, moved in (
            ("", 0.0),
            ("+rattled", noise),
            ("+squeezed", -breathing),
            ("+spread", breathing),
        ):
            start = relaxation.initial._replace(
                name=name + suffix, positions=between + np.where(relaxation.initial.free, moved, 0.0)
            )
            frames = (start, relaxation.relaxed._replace(name=name + suffix))
            found.append(
                Relaxation(
                    name + suffix, relaxation.group, relaxation.kind, frames, info={"of": relaxation.name}
                )
            )
    return found


def competing(starts: Sequence[Relaxation], endings: Mapping[str, Ending]) -> list[str]:
    """Names of the defects whose starts do not all end in one minimum, the reference's being one of them.

    Args:
        starts: from `candidates`, of several relaxations.
        endings: by the name of the start, all with one model.
    """
    found = []
    for name in dict.fromkeys(start.info["of"] for start in starts):
        hits = {endings[start.name].hit for start in starts if start.info["of"] == name}
        if hits == {True, False}:
            found.append(name)
    return found


def select(starts: Sequence[Relaxation], defects: Sequence[str], count: int) -> list[Relaxation]:
    """So many starts of these defects, as evenly as there are any, in an order that depends on their names alone.

    Args:
        starts: from `candidates`.
        defects: names of relaxations, from `competing`.
        count: at most this many.
    """
    queues = [
        sorted((start for start in starts if start.info["of"] == name), key=lambda start: _number(start.name))
        for name in defects
    ]
    rounds = [queue[k] for k in range(max(map(len, queues), default=0)) for queue in queues if k < len(queue)]
    return rounds[:count]


def num_minima(endings: Sequence[Ending], cell: np.ndarray) -> int:
    """How many minima these ends of one defect are: two are one where no atom lies further apart than in a basin.

    Args:
        endings: of starts of one relaxation.
        cell: (3, 3) angstrom, periodic.
    """
    distinct: list[np.ndarray] = []
    for ending in endings:
        if not any(_furthest(ending.positions, other, cell) < SAME_BASIN for other in distinct):
            distinct.append(ending.positions)
    return len(distinct)


def _furthest(a: np.ndarray, b: np.ndarray, cell: np.ndarray) -> float:
    d = a - b
    d = d - np.rint(d @ np.linalg.inv(cell)) @ cell
    return float(np.linalg.norm(d - d.mean(axis=0), axis=1).max())


def _number(name: str) -> int:
    """A number that depends on a name and on nothing else."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
