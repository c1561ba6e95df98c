"""How long a phase will still take, from nothing but how far it came and when."""

import math


class Estimate:
    """Extrapolates a phase from its second step on.

    The first step of a phase compiles and may take as long as all others together, so the clock of the
    extrapolation starts when it is done. Everything after it counts, validation between epochs included.
    A phase that also ends after so much training time ends at whichever comes first.

    Args:
        total: steps of the phase, or None where unknown.
        seconds: the phase ends after this much training time even if steps are left.
        now: clock reading, s.
    """

    def __init__(self, total: int | None, seconds: float = math.inf, *, now: float):
        self.total = total
        self.done = 0
        self._budget = seconds
        self._trained = 0.0
        self._begun = now
        self._reference: tuple[float, tuple[float, float]] | None = None
        self._latest = (now, (0.0, 0.0))

    def advance(self, n: int, *, now: float, trained: float | None = None) -> None:
        """Note ``n`` more steps.

        Args:
            n: steps.
            now: clock reading, s.
            trained: training time of the whole stage so far, s.
        """
        self.done += n
        if trained is not None:
            self._trained = trained
        self._latest = (now, self._shares())
        if self._reference is None:
            self._reference = self._latest

    @property
    def share(self) -> float:
        """Part of the phase that is done, 0 to 1."""
        return min(1.0, max(self._shares()))

    def elapsed(self, now: float) -> float:
        """Time since the phase began, s."""
        return now - self._begun

    def left(self, now: float) -> float | None:
        """Time left, s; None until it can be told."""
        if self._reference is None:
            return None
        (time0, before), (time1, after) = self._reference, self._latest
        if max(after) >= 1.0:
            return 0.0
        ends = [
            (time1 - time0) * (1.0 - share1) / (share1 - share0)
            for share0, share1 in zip(before, after, strict=True)
            if share1 > share0 and time1 > time0
        ]
        # Counts down between steps.
        return max(min(ends) - (now - time1), 0.0) if ends else None

    def _shares(self) -> tuple[float, float]:
        """Of the steps and of the training time."""
        steps = self.done / self.total if self.total else 0.0
        return steps, self._trained / self._budget if self._budget > 0 else 1.0
