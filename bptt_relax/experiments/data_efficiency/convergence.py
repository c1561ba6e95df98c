"""How fast an arm converged, from the validation after each epoch in the metrics."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bptt_relax.report.curves import learning

NEARLY = 0.95
"""An arm has converged where it has made this share of all the progress it ever makes."""


class Point(NamedTuple):
    """An arm after one epoch, the stages before counted.

    Attributes:
        epoch: 0 is the pretrained model.
        seconds: training time.
        validation: Delta Q, sqrt(u)*angstrom.
    """

    epoch: int
    seconds: float
    validation: float


def path(events: Iterable[dict[str, Any]], variant: str) -> list[Point]:
    """Validation of one arm after each epoch, its stages one after the other.

    Args:
        events: of ``metrics.jsonl``.
        variant: what its events are marked with.
    """
    points: list[Point] = []
    for curve in learning(event for event in events if event.get("variant") == variant):
        before = points[-1] if points else Point(0, 0.0, 0.0)
        # What a later stage starts from was validated already.
        own = curve.epochs[1:] if points else curve.epochs
        points += [Point(before.epoch + epoch, before.seconds + s, score) for epoch, s, score in own]
    return points


def converged_at(points: Sequence[Point]) -> Point:
    """Where an arm had nearly made all of its progress; the start where it made none.

    Args:
        points: from `path`, at least one.
    """
    start, best = points[0].validation, min(point.validation for point in points)
    return next(point for point in points if point.validation <= start - NEARLY * (start - best))
