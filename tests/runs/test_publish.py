import json

import pytest

from bptt_relax.outcomes import InputError
from bptt_relax.runs.publish import publish


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "figures").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"experiment": "silicon"}))
    (folder / "figures" / "one.png").write_bytes(b"picture")
    return folder


def test_results_and_figures_go_to_the_experiment(run, tmp_path):
    target = tmp_path / "experiments" / "silicon"
    target.mkdir(parents=True)
    (target / "README.md").write_text("mine")
    assert publish(run, tmp_path / "experiments") == target
    assert json.loads((target / "results.json").read_text()) == {"experiment": "silicon"}
    assert (target / "figures" / "one.png").read_bytes() == b"picture"
    assert (target / "README.md").read_text() == "mine"


def test_variants_of_an_experiment_leave_each_other_alone(run, tmp_path):
    target = tmp_path / "silicon"
    target.mkdir()
    publish(run, tmp_path)
    (run / "results.json").write_text(json.dumps({"experiment": "silicon", "variant": "small"}))
    publish(run, tmp_path)
    assert "variant" not in json.loads((target / "results.json").read_text())
    assert json.loads((target / "results_small.json").read_text())["variant"] == "small"


def test_unfinished_broken_or_homeless_runs_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        publish(run, tmp_path / "experiments")
    (run / "results.json").write_text("{}")
    with pytest.raises(InputError, match="not the results"):
        publish(run, tmp_path)
    (run / "results.json").unlink()
    with pytest.raises(InputError, match="--resume"):
        publish(run, tmp_path)
