"""One function, compiled for one layout after another, each of them by one thread only."""

import threading
from collections.abc import Callable, Hashable, Iterable

import jax

from bptt_relax._types import PyTree
from bptt_relax.neighbors import Capacity
from bptt_relax.systems import Layout


class Programs:
    """A jitted function that several threads may call.

    Args:
        function: pure.
    """

    def __init__(self, function: Callable[..., PyTree]):
        self._jitted = jax.jit(function)
        self._compiled: dict[Hashable, threading.Event] = {}
        self._lock = threading.Lock()

    def __call__(self, shapes: Hashable, *arguments: PyTree) -> PyTree:
        """Call the function; who asks for shapes that are just being compiled waits instead of compiling them too.

        Args:
            shapes: what tells programs apart.
            *arguments: of the function.
        """
        with self._lock:
            mine = shapes not in self._compiled
            compiled = self._compiled.setdefault(shapes, threading.Event())
        if not mine:
            compiled.wait()
            return self._jitted(*arguments)
        try:
            return self._jitted(*arguments)
        finally:
            compiled.set()


class Layouts:
    """The layouts in use: one that must grow takes the place of one that has grown before, where there is one."""

    def __init__(self):
        self._known: set[Layout] = set()
        self._lock = threading.Lock()

    def add(self, layouts: Iterable[Layout]) -> None:
        """Put layouts to use."""
        with self._lock:
            self._known.update(layouts)

    def holding(self, num_atoms: int, capacity: Capacity) -> Layout:
        """The smallest layout of this number of atoms that holds these lists; a new one where none does."""
        with self._lock:
            fitting = [
                layout
                for layout in self._known
                if layout.num_atoms == num_atoms
                and all(have >= need for have, need in zip(layout.capacity, capacity, strict=True))
            ]
            layout = min(
                fitting, key=lambda layout: sum(layout.capacity), default=Layout(num_atoms, capacity)
            )
            self._known.add(layout)
        return layout
