"""What one update costs, and how far the gradient is that through the whole unroll."""

import time
from collections.abc import Callable, Mapping
from itertools import chain, count, islice
from typing import NamedTuple

import jax
import numpy as np

from bptt_relax.relax import Theta
from bptt_relax.training import Batch, BatchGradient, Packed, Stage, pack_on_host


class Cost(NamedTuple):
    """Of one update, all terms of its loss together.

    Attributes:
        temporary_bytes: of the largest of its compiled programs.
        seconds: mean over the updates.
        usable: share of structures with a gradient of where they end; None for what differentiates no relaxation.
        cosine: mean over these, between this gradient and that through the whole unroll; None where there is none to
            compare with.
    """

    temporary_bytes: int
    seconds: float
    usable: float | None = None
    cosine: float | None = None


def costs(
    stages: Mapping[str, Stage],
    theta: Theta,
    num_updates: int,
    *,
    forces: str,
    on_update: Callable[[], None] = lambda: None,
) -> dict[str, Cost]:
    """Measure the gradients of all stages, which take turns.

    Args:
        stages: by name; one called ``full`` is what the others are compared with.
        theta: the model.
        num_updates: that are measured.
        forces: the stage that differentiates no relaxation.
        on_update: told after each.
    """
    packed = jax.device_put(pack_on_host(theta))
    batches = {name: first_batches(stage, num_updates) for name, stage in stages.items()}
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for index in range(num_updates):
        for name, stage in stages.items():
            seconds[name].append(timed(stage, packed, batches[name][index]))
            on_update()
    ends = {
        name: [
            flat(stage.terms[0].gradients(packed, [example]))
            for batch in batches[name]
            for example in batch[0]
        ]
        for name, stage in stages.items()
        if name != forces
    }
    return {
        name: Cost(
            temporary_bytes(stage),
            float(np.mean(seconds[name])),
            *agreement(ends.get(name), ends.get("full")),
        )
        for name, stage in stages.items()
    }


def first_batches(stage: Stage, number: int) -> list[Batch]:
    """The first batches that a stage sees, of as many epochs as it takes."""
    return list(islice(chain.from_iterable(stage.batches(epoch, 0) for epoch in count()), number))


def timed(stage: Stage, theta: Packed, batch: Batch) -> float:
    """Seconds that the gradients of all terms take once everything is compiled."""
    while True:
        start = time.perf_counter()
        running = [term.gradients.submit(theta, part) for term, part in zip(stage.terms, batch, strict=True)]
        found = [collect() for collect in running]
        jax.block_until_ready([part.total for part in found])
        if not any(part.compiled for part in found):
            return time.perf_counter() - start


def temporary_bytes(stage: Stage) -> int:
    """Of the largest program behind the gradients of a stage that were taken."""
    return max(plan.temporary_bytes or 0 for term in stage.terms for plan in term.gradients.plans)


def flat(found: BatchGradient) -> np.ndarray | None:
    """A gradient as one vector; None where it could not be used, or is zero."""
    if found.total is None:
        return None
    vector = np.concatenate([np.asarray(part, float) for part in found.total.vectors.values()])
    return vector if np.any(vector) else None


def agreement(
    gradients: list[np.ndarray | None] | None, full: list[np.ndarray | None] | None
) -> tuple[float | None, float | None]:
    """Share of structures with a gradient, and its mean cosine with that through the whole unroll.

    Args:
        gradients: of each structure; None where nothing has one.
        full: those through the whole unroll; None where they are not known.
    """
    if gradients is None:
        return None, None
    cosines = [
        float(one @ exact / (np.linalg.norm(one) * np.linalg.norm(exact)))
        for one, exact in zip(gradients, full or (), strict=False)
        if one is not None and exact is not None
    ]
    usable = float(np.mean([one is not None for one in gradients]))
    return usable, float(np.mean(cosines)) if cosines else None
