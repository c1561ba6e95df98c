"""The layouts in use while many structures are relaxed."""

import threading
from collections.abc import Iterable

from bptt_relax.neighbors import Capacity
from bptt_relax.systems import Layout


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
