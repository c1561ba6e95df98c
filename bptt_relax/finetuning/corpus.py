"""The relaxations of a run and what each of them is used for."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bptt_relax.io.relaxations import Relaxation
from bptt_relax.io.splits import Split


class Corpus(NamedTuple):
    """Relaxations with their split.

    Attributes:
        name: what messages and results call the data.
        sha256: of the data.
        relaxations: those in the split, perhaps others.
        split: names by what they are used for.
    """

    name: str
    sha256: str
    relaxations: Sequence[Relaxation]
    split: Split

    def select(self, names: Iterable[str]) -> list[Relaxation]:
        """The named relaxations, in the order of the names."""
        known = {r.name: r for r in self.relaxations}
        return [known[name] for name in names]

    @property
    def held_out(self) -> tuple[str, ...]:
        """Names of everything that is looked at once: test and unseen kinds."""
        return (*self.split.test, *self.split.unseen)

    @property
    def used(self) -> list[Relaxation]:
        """Every relaxation in the split."""
        return self.select([name for part in self.split for name in part])


def digest(relaxations: Iterable[Relaxation]) -> str:
    """A sha256 of names, species, cells, positions and labels: two runs with the same one had the same data."""
    found = hashlib.sha256()
    for r in sorted(relaxations, key=lambda r: r.name):
        found.update(r.name.encode())
        for frame in r.frames[r.start :]:
            for values in (frame.species, frame.cell, frame.positions):
                found.update(np.ascontiguousarray(values).tobytes())
        for labels in (r.forces, r.stresses):
            if labels is not None:
                found.update(np.ascontiguousarray(labels).tobytes())
    return found.hexdigest()
