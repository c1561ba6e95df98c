"""The peers, on the same cases as `test_strategies`; each skips where its package is absent."""

import pytest

from benchmarks.contract import Case
from benchmarks.peers import ENTRIES
from benchmarks.presets import CHGNET, SW

# The peers' own warnings are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("entry", [name for name, entry in ENTRIES.items() if not entry.chgnet_only])
def test_stillinger_weber(run_entry, entry):
    run_entry(entry, Case(SW, 63, 64))


@pytest.mark.parametrize("entry", [name for name, entry in ENTRIES.items() if entry.chgnet_only])
def test_chgnet(run_entry, entry):
    run_entry(entry, Case(CHGNET, 31, 8))
