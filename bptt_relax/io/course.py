"""How a reference calculation went, as far as its output says."""

from typing import NamedTuple

import numpy as np


class Course(NamedTuple):
    """What an output says besides structures and labels.

    Attributes:
        converged: the code says that the relaxation converged; False: that it did not; None: nothing.
        finished: the output has its regular end; None where the format has none.
        unconverged_steps: ionic steps whose electronic loop did not converge.
        extra_steps: how many steps at the end belong to another calculation.
        runs: how many runs the output holds, one after the other.
        free: (n, 3) bool, what the code let move, or None where it doesn't say.
    """

    converged: bool | None = None
    finished: bool | None = None
    unconverged_steps: frozenset[int] = frozenset()
    extra_steps: int = 0
    runs: int = 1
    free: np.ndarray | None = None
