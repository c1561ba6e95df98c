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
    with pytest.raises(InputError, match="finish it first"):
        publish(run, tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"experiment": "../silicon"},
        {"experiment": ""},
        {"experiment": "."},
        {"experiment": "/tmp"},
        {"experiment": ["silicon"]},
        {"experiment": "a\x1b[31m"},
        {"variant": "../../README"},
        {"variant": 3},
    ],
)
def test_no_name_leads_out_of_the_folder_of_experiments(run, tmp_path, changed):
    (tmp_path / "experiments" / "silicon").mkdir(parents=True)
    (tmp_path / "silicon").mkdir()
    (run / "results.json").write_text(json.dumps({"experiment": "silicon"} | changed))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"is no plain name\): publish the folder of another run"):
        publish(run, tmp_path / "experiments")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"experiment": '])
def test_damaged_results_are_named(run, tmp_path, content):
    (run / "results.json").write_bytes(content)
    with pytest.raises(InputError, match=r"results\.json is damaged"):
        publish(run, tmp_path)
