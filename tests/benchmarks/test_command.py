"""``python -m benchmarks``, with nothing run: what it measures, keeps and writes."""

import pytest

from benchmarks import __main__ as command
from benchmarks import measure, schema


@pytest.fixture
def measured(monkeypatch, results):
    """Names of what was measured; each measurement is taken from finished results."""
    names = []

    def compare(plan, say):
        names.append(plan.case.name)
        return next(c for c in results.comparisons if c.name == plan.case.name)

    def converge(arguments, say):
        names.append("convergence")
        return results.convergence

    monkeypatch.setattr(measure, "compare", compare)
    monkeypatch.setattr(measure, "converge", converge)
    return names


def test_an_interrupted_run_goes_on_where_it_stopped(measured, monkeypatch, results, tmp_path):
    out = tmp_path / "numbers.json"
    whole = [c.name for c in results.comparisons]
    compare = measure.compare

    def interrupted(plan, say):
        if plan.case.name == whole[2]:
            raise KeyboardInterrupt
        return compare(plan, say)

    monkeypatch.setattr(measure, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.main(command.Options(out=out))
    monkeypatch.setattr(measure, "compare", compare)
    assert [c.name for c in schema.read(out).comparisons] == whole[:2]
    measured.clear()
    assert command.main(command.Options(out=out, resume=True)) == 0
    assert measured == [*whole[2:], "convergence"]
    assert schema.read(out) == results
    measured.clear()
    assert command.main(command.Options(out=out, resume=True)) == 0
    assert measured == []


def test_only_what_is_asked_for_is_measured_again(measured, results, tmp_path):
    out = tmp_path / "numbers.json"
    schema.write(out, results)
    assert command.main(command.Options(out=out, only=("sw-31",))) == 0
    assert measured == ["sw-31-256"]
    assert schema.read(out) == results


@pytest.mark.parametrize("text", ["{}", "not JSON"])
def test_a_file_that_holds_something_else_is_left_alone(measured, capsys, tmp_path, text):
    out = tmp_path / "numbers.json"
    out.write_text(text)
    assert command.main(command.Options(out=out)) == 2
    assert "not a measurement file" in capsys.readouterr().err
    assert out.read_text() == text
    assert measured == []
