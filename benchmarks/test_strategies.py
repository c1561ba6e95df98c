"""The package's strategies: pytest-benchmark's view of what ``python -m benchmarks`` measures."""

import pytest

from benchmarks.contract import Case
from benchmarks.presets import CHGNET, SW
from benchmarks.strategies import ENTRIES


@pytest.mark.parametrize("entry", ENTRIES)
def test_stillinger_weber(run_entry, entry):
    run_entry(entry, Case(SW, 63, 64))


@pytest.mark.parametrize("entry", ["forward", "step", "force"])
def test_chgnet(run_entry, entry):
    run_entry(entry, Case(CHGNET, 31, 8))
