"""Structure after structure, one in each of a few threads: what is fastest on a CPU.

A loop over one structure ends when that structure has converged, and small structures leave most of a processor idle,
so that several loops run side by side better than one loop over several.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from bptt_relax import threads
from bptt_relax.batches.buckets import Bucket
from bptt_relax.batches.final import Final
from bptt_relax.batches.host import Host
from bptt_relax.compilation import Programs


def relax_in_turn(
    host: Host,
    programs: Programs,
    buckets: Sequence[Bucket],
    *,
    workers: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Final]:
    """Relax every structure to its end; they come as they finish.

    Args:
        host: prepares structures.
        programs: of `settling.settle`.
        buckets: which structures, in which layouts.
        workers: structures under way at once; the number of processors when not given.
        should_stop: asked between calls of a program; structures under way are then left.
    """
    workers = workers or threads.cores()
    left = threading.Event()

    def relax(index: int, bucket: Bucket) -> Final | None:
        if left.is_set() or should_stop():
            return None
        job = host.open(index, bucket.layout)
        while not (left.is_set() or should_stop()):
            if host.take(job, *programs(host.theta, job.progress, job.system)):
                return host.close(job)
        return None

    # The first of every bucket come first: several programs are compiled at once, and nobody waits for one.
    order = [(bucket.members[0], bucket) for bucket in buckets]
    order += [(index, bucket) for bucket in buckets for index in bucket.members[1:]]
    with ThreadPoolExecutor(workers, thread_name_prefix="relax") as pool:
        futures = [pool.submit(relax, index, bucket) for index, bucket in order]
        try:
            for future in as_completed(futures):
                final = future.result()
                if final is not None:
                    yield final
        finally:
            left.set()
            for future in futures:
                future.cancel()
