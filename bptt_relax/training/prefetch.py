"""The next batch is made while the device computes."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetched(Generic[Item]):
    """Iterates over items that a thread makes ahead.

    Args:
        items: made in the thread; an exception there is raised here, in its turn.
        ahead: how many may wait.

    Attributes:
        waited: seconds that the iteration has waited for the next item.
    """

    def __init__(self, items: Iterable[Item], ahead: int = 2):
        self.waited = 0.0
        self._queue: queue.Queue = queue.Queue(ahead)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._make, args=(items,), name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while True:
            start = time.perf_counter()
            item, error, over = self._queue.get()
            self.waited += time.perf_counter() - start
            if error is not None:
                raise error
            if over:
                return
            yield item

    def close(self) -> None:
        """Stop making items."""
        self._left.set()
        while self._thread.is_alive():
            with_room = not self._queue.full()
            if not with_room:
                self._queue.get_nowait()
            self._thread.join(0.05)

    def __enter__(self) -> "Prefetched[Item]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self, items: Iterable[Item]) -> None:
        error = None
        try:
            for item in items:
                if self._left.is_set():
                    return
                self._queue.put((item, None, False))
        except BaseException as raised:
            error = raised
        self._queue.put((None, error, True))
