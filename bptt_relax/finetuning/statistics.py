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
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(before), size=(NUM_RESAMPLES, len(before)))
    low, high = np.quantile(_resampled_reductions(before, after, rows, rng), (0.025, 0.975))
    return float(low), float(high)


def average_reduction_interval(
    before: Sequence[Mapping[str, Sequence[float]]],
    after: Sequence[Mapping[str, Sequence[float]]],
    *,
    seed: int = 0,
) -> tuple[float, float]:
    """95% bootstrap interval of the reduction of the mean, averaged over models.

    Models, structures and seeds are resampled. All models get the same structures: what is hard for one is hard for
    the others, so that they don't average it out.

    Args:
        before: for each model, structure -> one value per seed; the same structures for all.
        after: likewise.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(before[0]), size=(NUM_RESAMPLES, len(before[0])))
    reductions = np.stack(
        [_resampled_reductions(b, a, rows, rng) for b, a in zip(before, after, strict=True)], axis=1
    )
    models = rng.integers(len(before), size=reductions.shape)
    averages = np.take_along_axis(reductions, models, axis=1).mean(axis=1)
    low, high = np.quantile(averages, (0.025, 0.975))
    return float(low), float(high)


def _resampled_reductions(
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    rows: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Reductions of the mean (R,) over the drawn structures (R, n), with seeds drawn for each."""
    names = sorted(before)
    a = np.array([before[name] for name in names], float)
    b = np.array([after[name] for name in names], float)
    columns = rng.integers(b.shape[1], size=rows.shape)
    return 1.0 - b[rows, columns].mean(axis=1) / a[rows, columns % a.shape[1]].mean(axis=1)


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
