"""The measuring side, with workers that only pretend."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks import cases, measure, presets, worker
from benchmarks.contract import Case, Digest, Entry, Program
from benchmarks.entries import ENTRIES
from benchmarks.presets import SW, Plan


class Pretender:
    """Answers like a worker, and remembers what it was asked."""

    log: ClassVar[list[tuple[str, str]]] = []
    norms: ClassVar[dict[str, float]] = {}
    started = 0

    def __init__(self):
        type(self).started += 1

    def ask(self, do, **request):
        self.log.append((do, request.get("entry", "")))
        if do == "hello":
            return {"cpu_count": 1}
        if do == "build":
            if request["entry"] == "full":
                raise measure.WorkerError("out of memory (killed)")
            return {"trace_seconds": 1.0, "compile_seconds": 2.0, "temp_bytes": 10}
        return {
            "seconds": 1.0,
            "peak_bytes": 5,
            "value": 1.0,
            "gradient_norm": self.norms.get(request["entry"], 1.0),
        }

    def close(self):
        type(self).started -= 1


@pytest.fixture
def pretend(monkeypatch):
    monkeypatch.setattr(measure, "Worker", Pretender)
    Pretender.log, Pretender.norms, Pretender.started = [], {}, 0
    return Pretender


def plan(*entries: str, **options) -> Plan:
    return Plan(Case(SW, 7, 4), entries, **options)


def test_rounds_run_everything_in_turns(pretend):
    comparison = measure.compare(plan("forward", "step", "force", seconds=9.0), print)
    assert [len(m.rounds) for m in comparison.entries] == [3, 3, 3]
    runs = [entry for do, entry in pretend.log if do == "run"]
    assert runs[:6] == ["forward", "step", "force", "step", "force", "forward"]
    assert pretend.started == 0


def test_at_least_two_rounds(pretend):
    comparison = measure.compare(plan("forward", "step", seconds=0.1), print)
    assert [len(m.rounds) for m in comparison.entries] == [2, 2]


def test_a_failure_is_a_note_and_the_rest_goes_on(pretend):
    comparison = measure.compare(plan("full", "step"), print)
    assert comparison.get("full").note == "out of memory (killed)"
    assert comparison.get("full").rounds == []
    assert comparison.get("step").rounds


def test_what_dies_in_a_round_has_no_rounds(pretend, monkeypatch):
    ask = pretend.ask

    def dies(self, do, **request):
        if do == "run" and request["entry"] == "step" and ("run", "step") in self.log:
            raise measure.WorkerError("died")
        return ask(self, do, **request)

    monkeypatch.setattr(pretend, "ask", dies)
    comparison = measure.compare(plan("forward", "step", seconds=6.0), print)
    assert comparison.get("step").note == "died"
    assert comparison.get("step").rounds == []
    assert len(comparison.get("forward").rounds) == 3


def test_refused_gradients_are_not_timed_as_gradients(pretend):
    pretend.norms["implicit"] = math.nan
    measured = measure.compare(plan("implicit"), print).get("implicit")
    assert measured.gradient_norm is None
    assert measured.note.startswith("refused")
    assert measured.rounds == []


def test_only_compiled_where_only_memory_is_wanted(pretend):
    comparison = measure.compare(plan("step", timed=False), print)
    assert comparison.get("step").temp_bytes == 10
    assert {do for do, _ in pretend.log} == {"hello", "build"}


def test_chgnet_peers_stay_away_from_other_models(pretend, monkeypatch):
    monkeypatch.setattr(measure, "ENTRIES", {"torch": ENTRIES["torch"]._replace(requires=())})
    assert measure.compare(plan("torch"), print).get("torch").note == "runs CHGNet only"


def test_missing_packages_are_named():
    entry = Entry("none", "gradient", lambda case: None, requires=("json", "no_such_package"))
    assert entry.missing() == "no_such_package not installed: pip install -e '.[bench]'"


def test_the_worker_survives_what_fails(monkeypatch):
    def build(case):
        if case.steps > 4:
            raise ValueError("too\nlong")
        return Program(run=lambda: 2.0, digest=lambda value: Digest(value, None))

    monkeypatch.setattr(worker, "ENTRIES", {"some": Entry("some", "forward", build)})
    requests = [
        {"do": "build", "entry": "some", "case": [SW, 7, 8]},
        {"do": "build", "entry": "some", "case": [SW, 7, 4]},
        {"do": "first", "entry": "some"},
        {"do": "run", "entry": "some"},
    ]
    answers = io.StringIO()
    worker.serve(io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), answers)
    failed, built, first, run = (json.loads(line) for line in answers.getvalue().splitlines())
    assert failed == {"error": "ValueError: too long"}
    assert built["compile_seconds"] == 0.0
    assert first["value"] == 2.0
    assert run["seconds"] >= 0.0


def test_listing_what_competes_imports_none_of_it():
    heavy = "{'jax', 'torch', 'equinox', 'optimistix', 'chgnet', 'jax_md'}"
    code = (
        f"import sys; import benchmarks.measure, benchmarks.table; sys.exit(bool({heavy} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_name_what_exists_and_every_case_once(name):
    plans = presets.PRESETS[name].plans
    assert len({plan.case.name for plan in plans}) == len(plans)
    for each in plans:
        assert set(each.entries) <= set(ENTRIES)
        assert not each.timed or "forward" in each.entries
        atoms, ideal = cases.silicon(each.case.atoms)
        assert len(atoms) == len(ideal) == each.case.atoms


def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="no silicon cell of 30 atoms"):
        cases.silicon(30)


def test_an_error_is_told_without_the_places_in_files():
    message = """INTERNAL: callback failed: Traceback (most recent call last):
      File "folder/callback.py", line 815, in wrapped
    SolverError: out of steps

    ---------
    """
    assert worker.in_short(message) == "INTERNAL: callback failed: SolverError: out of steps"
