"""Benchmarks run only when asked for: ``pytest benchmarks -n 0 --benchmark-only``."""

import os
import sys
from pathlib import Path

# Before jax is imported: reading and writing programs logs pages of hints otherwise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Bare pytest, unlike `python -m pytest`, does not look into the folder it is started from.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what would take minutes unless benchmarks were asked for."""
    if config.getoption("--benchmark-only", default=False):
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="a benchmark: run with -n 0 --benchmark-only"))


@pytest.fixture
def run_entry(benchmark):
    """Benchmark one entry on one case; compile time, memory and the result go into ``extra_info``."""
    from benchmarks.contract import Case
    from benchmarks.entries import ENTRIES

    def run(name: str, case: Case) -> None:
        entry = ENTRIES[name]
        missing = entry.missing()
        if missing:
            pytest.skip(missing)
        program = entry.build(case)
        digest = program.digest(program.run())
        benchmark.group = case.name
        benchmark.extra_info.update(
            compile_seconds=program.trace_seconds + program.compile_seconds,
            temp_bytes=program.temp_bytes,
            **digest._asdict(),
        )
        benchmark.pedantic(program.run, rounds=5)

    return run
