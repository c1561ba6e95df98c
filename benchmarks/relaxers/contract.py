"""What a contestant is asked, and what it answers."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

MODEL = "chgnet-0.3.0"


class Task(NamedTuple):
    """When a relaxation ends.

    Attributes:
        fmax: converged when no force exceeds this, eV/angstrom.
        steps: largest number of steps.
        workers: structures that this package relaxes at the same time; one per core when not given.
    """

    fmax: float
    steps: int
    workers: int | None = None


class Ended(NamedTuple):
    """Where one relaxation ended.

    Attributes:
        energy: eV.
        steps: made.
        converged: or out of steps.
    """

    energy: float
    steps: int
    converged: bool


class Relaxer(Protocol):
    """Relaxes structures it was given, with FIRE and ASE's settings of it."""

    def relax(self, indices: Sequence[int]) -> dict[int, Ended]:
        """Relax some of the structures; index -> where it ended."""
        ...
