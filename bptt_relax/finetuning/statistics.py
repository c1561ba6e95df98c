"""Means, reductions and their intervals over structures and seeds."""

from collections.abc import Mapping, Sequence

import numpy as np

NUM_RESAMPLES = 10_000


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive numbers; zero if one of them is."""
    numbers = np.asarray(values, float)
    return float(np.exp(np.mean(np.log(numbers)))) if np.all(numbers > 0) else 0.0


def reduction(before: float, after: float) -> float:
    """How much smaller, as a fraction: 0.4 is 40% less, negative is more."""
    return 1.0 - after / before


def reduction_interval(
    before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]], *, seed: int = 0
) -> tuple[float, float]:
    """95% bootstrap interval of the reduction of the mean.

    Structures are resampled, and within each structure the seeds: both are draws from what might have been.

    Args:
        before: structure -> one value per seed.
        after: the same structures.
        seed: of the resampling.
    """
    names = sorted(before)
    a = np.array([before[name] for name in names], float)
    b = np.array([after[name] for name in names], float)
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(names), size=(NUM_RESAMPLES, len(names)))
    columns = rng.integers(b.shape[1], size=(NUM_RESAMPLES, len(names)))
    means_before = a[rows, columns % a.shape[1]].mean(axis=1)
    means_after = b[rows, columns].mean(axis=1)
    low, high = np.quantile(1.0 - means_after / means_before, (0.025, 0.975))
    return float(low), float(high)


def mean_interval(values: Mapping[str, Sequence[float]], *, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the mean over structures and seeds, resampled as in `reduction_interval`.

    Args:
        values: structure -> one value per seed.
        seed: of the resampling.
    """
    a = np.array([values[name] for name in sorted(values)], float)
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(a), size=(NUM_RESAMPLES, len(a)))
    columns = rng.integers(a.shape[1], size=rows.shape)
    low, high = np.quantile(a[rows, columns].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
