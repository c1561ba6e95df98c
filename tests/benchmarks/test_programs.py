"""One real, tiny case: everything exact computes the same."""

import pytest

from benchmarks.contract import Case
from benchmarks.entries import ENTRIES
from benchmarks.presets import SW

CASE = Case(SW, 7, 3)


@pytest.fixture(scope="module")
def reference():
    program = ENTRIES["full"].build(CASE)
    return program.digest(program.run())


@pytest.mark.parametrize(
    "name", [n for n, e in ENTRIES.items() if e.exact and e.kind == "gradient" and not e.chgnet_only]
)
def test_exact_entries_agree(name, reference):
    if ENTRIES[name].missing():
        pytest.skip(ENTRIES[name].missing())
    program = ENTRIES[name].build(CASE)
    found = program.digest(program.run())
    assert found.value == pytest.approx(reference.value, rel=1e-12)
    assert found.gradient_norm == pytest.approx(reference.gradient_norm, rel=1e-12)
    assert program.temp_bytes > 0
    assert program.compile_seconds > 0
