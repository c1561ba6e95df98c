"""Many structures at once in the slots of one program, a finished one replaced by the next: for accelerators."""

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence

import jax
import numpy as np

from bptt_relax import trees
from bptt_relax._types import PyTree
from bptt_relax.batches.buckets import Bucket
from bptt_relax.batches.final import Final
from bptt_relax.batches.host import Host, Job
from bptt_relax.compilation import Programs
from bptt_relax.outcomes import Outcome
from bptt_relax.systems import Layout

ENTRIES = 400_000
"""Entries of edges, bonds and angles that are put side by side when the number of slots is not given."""


def relax_side_by_side(
    host: Host,
    programs: Programs,
    buckets: Sequence[Bucket],
    *,
    slots: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Final]:
    """Relax every structure to its end; they come as they finish.

    Args:
        host: prepares structures.
        programs: of a vmapped `settling.settle`.
        buckets: which structures, in which layouts.
        slots: structures side by side; by their size when not given.
        should_stop: asked between calls of a program; structures under way are then left.
    """
    waiting: dict[Layout, deque[int | Job]] = defaultdict(deque)
    for bucket in buckets:
        waiting[bucket.layout].extend(bucket.members)
    while waiting:
        layout = max(waiting, key=lambda layout: sum(layout.capacity))
        queue = waiting.pop(layout)
        for outgrown in (yield from _relax_layout(host, programs, layout, queue, slots, should_stop)):
            waiting[outgrown.layout].append(outgrown)
        if should_stop():
            return


def _relax_layout(
    host: Host,
    programs: Programs,
    layout: Layout,
    queue: deque[int | Job],
    slots: int | None,
    should_stop: Callable[[], bool],
) -> Generator[Final, None, list[Job]]:
    """Everything of one layout; returns the jobs whose layout has grown on the way."""
    outgrown: list[Job] = []

    def next_job() -> Job | None:
        if not queue:
            return None
        waiting = queue.popleft()
        return waiting if isinstance(waiting, Job) else host.open(waiting, layout)

    count = slots_for(layout, len(queue), slots)
    jobs: list[Job | None] = [next_job() for _ in range(count)]
    progress, system = trees.stack([(job.progress, job.system) for job in jobs if job is not None])
    while any(job is not None for job in jobs) and not should_stop():
        progress, visits = programs(host.theta, progress, system)
        paused = np.asarray(progress.finished | (progress.state.outcome == Outcome.STALE_NEIGHBORS))
        for slot, job in enumerate(jobs):
            if job is None:
                continue
            if not paused[slot]:
                host.keep(job, _take(visits, slot))
                continue
            over = host.take(job, *_take((progress, visits), slot))
            if over:
                yield host.close(job)
            elif job.layout != layout:
                outgrown.append(job)
            if over or job.layout != layout:
                jobs[slot] = job = next_job()
            if job is None:
                progress = progress._replace(finished=progress.finished.at[slot].set(True))
            else:
                progress, system = _put((progress, system), (job.progress, job.system), slot)
    return outgrown


# Jitted, so that the slot is no constant: one compilation serves all.


@jax.jit
def _take(stacked: PyTree, slot: int) -> PyTree:
    return jax.tree.map(lambda rows: rows[slot], stacked)


@jax.jit
def _put(stacked: PyTree, one: PyTree, slot: int) -> PyTree:
    return jax.tree.map(lambda rows, row: rows.at[slot].set(row), stacked, one)


def slots_for(layout: Layout, waiting: int, slots: int | None) -> int:
    """How many structures of a layout are put side by side: those that wait, as far as they fit."""
    entries = layout.num_atoms + sum(layout.capacity[1:])
    return min(waiting, slots or max(1, ENTRIES // entries))
