import numpy as np
import pytest

from bptt_relax.finetuning import statistics


def test_geometric_mean():
    assert statistics.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert statistics.geometric_mean([0.0, 4.0]) == 0.0


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """Structures whose error shrinks by 40% on average: 95% of the intervals should hold 0.4."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        before = rng.uniform(0.5, 3.0, size=40)
        after = before * rng.uniform(0.2, 1.0, size=40)
        low, high = statistics.reduction_interval(
            {str(k): [b] for k, b in enumerate(before)}, {str(k): [a] for k, a in enumerate(after)}
        )
        hits += low < 0.4 < high
    assert 85 <= hits <= 100


def test_seeds_widen_the_interval():
    before = {str(k): [1.0] for k in range(10)}
    steady = {str(k): [0.5, 0.5, 0.5] for k in range(10)}
    shaky = {str(k): [0.2, 0.5, 0.8] for k in range(10)}
    assert statistics.reduction_interval(before, steady) == pytest.approx((0.5, 0.5))
    low, high = statistics.reduction_interval(before, shaky)
    assert low < 0.5 < high


NORMAL_DRAWS = np.random.default_rng(1).normal(size=400)
NORMAL_DRAWS = (NORMAL_DRAWS - NORMAL_DRAWS.mean()) / NORMAL_DRAWS.std()


def test_quantiles_of_the_bootstrap_are_those_of_95_percent():
    """A mean over 400 structures is normal: 1.96 standard errors to either side; 90% would be 1.645."""
    spread = 0.1 * 1.96 / 20
    after = {str(k): [0.5 + 0.1 * draw] for k, draw in enumerate(NORMAL_DRAWS)}
    before = {name: [1.0] for name in after}
    found = statistics.reduction_interval(before, after)
    np.testing.assert_allclose(found, (0.5 - spread, 0.5 + spread), rtol=0, atol=0.05 * spread)
    found = statistics.mean_interval(after)
    np.testing.assert_allclose(found, (0.5 - spread, 0.5 + spread), rtol=0, atol=0.05 * spread)
    found = statistics.average_reduction_interval([before, before], [after, after])
    np.testing.assert_allclose(found, (0.5 - spread, 0.5 + spread), rtol=0, atol=0.05 * spread)
