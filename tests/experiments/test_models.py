"""Several models side by side: what is skipped, shared and averaged, on a cheap potential; figures; a smoke run."""

import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest

from bptt_relax import datasets, models
from bptt_relax.experiments.models import figures
from bptt_relax.experiments.models import run as experiment
from bptt_relax.experiments.models.config import MODELS, OWN, PRESETS, ModelsConfig
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.settings import BpttSettings, ForceMatchingSettings, RelaxationSettings
from bptt_relax.finetuning.statistics import average_reduction_interval, reduction_interval
from bptt_relax.io.splits import Split
from bptt_relax.models import pretrained
from bptt_relax.outcomes import InputError, Interrupted, ModelError
from bptt_relax.report.names import STAGES
from bptt_relax.report.tables import print_grids
from bptt_relax.runs.session import Finished

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("file", "preset"), [("config.toml", "full"), ("smoke.toml", "smoke")])
def test_the_files_people_edit_are_the_presets(file, preset):
    found = tomllib.loads((ROOT / "experiments" / "models" / file).read_text())
    assert ModelsConfig.model_validate(found | {"preset": preset}) == PRESETS[preset]


def test_what_a_model_needs_of_its_own_never_changes_what_it_is_tested_on():
    full = PRESETS["full"]
    assert set(OWN) <= set(MODELS)
    for name in MODELS:
        own, settings, part = full.own(name), full.for_model(name), full.part_for(name)
        assert settings.model == name
        assert part.test == full.data.test
        changed = {s for s in own.changes if getattr(settings, s) != getattr(full, s)}
        assert changed == set(own.changes)
        assert not own.changes.get("relaxation", {}).keys() & {"test_steps", "force_tolerance"}
    assert full.part_for("nequix-mp-1").train == 10
    few = ModelsConfig(data={"train": 4}, own_settings=False)
    assert few.part_for("nequix-mp-1") == few.data
    assert few.for_model("nequix-mp-1").relaxation == few.relaxation


def test_impossible_settings_are_told():
    with pytest.raises(ValueError, match=r"model\n.*Extra inputs are not permitted"):
        ModelsConfig.model_validate({"model": "chgnet-0.2.0"})
    for named in ((), ("a/tuned.safetensors", "b/tuned.safetensors")):
        with pytest.raises(ValueError, match="at least one model, and none of a name twice"):
            ModelsConfig(models=named)


@pytest.fixture
def of_silicon_alone(monkeypatch):
    # What other tests compiled is theirs.
    monkeypatch.setattr(experiment.jax, "clear_caches", lambda: None)
    data = datasets.load("silicon-defects")
    pure = [r.name for r in data.relaxations if set(r.initial.species.tolist()) == {14}]
    split = Split((pure[0],), (pure[1],), (pure[2],), (pure[3],))
    corpus = Corpus(data.name, data.sha256, data.relaxations, split)
    monkeypatch.setattr(experiment, "part_of_silicon", lambda part: corpus)


def pretend(calls, interrupted=False):
    """A pipeline that knows its result beforehand."""

    def fine_tune(name, corpus, settings, folder, base):
        calls.append((name, settings.resume))
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        if interrupted:
            raise Interrupted(name, signal.SIGTERM)
        made_up = block(len(calls), corpus.split.test) | {
            "unseen": block(len(calls) + 1, corpus.split.unseen)
        }
        run = {"base_model": {"name": base.about.name}, "stability": {}, "timing_s": {}, "peak_rss_mb": 1}
        found = run | {"models": {base.name: made_up}, "dataset": {"train": list(corpus.split.train)}}
        (folder / "results.json").write_text(json.dumps(found))
        return Finished(folder, found)

    return fine_tune


@pytest.fixture
def names(tmp_path):
    """A model of the registry, one that is not, and one in a file."""
    _, params = models.load("stillinger-weber")
    other = tmp_path / "stiffer.safetensors"
    pretrained.save(other, "stillinger-weber", jax.tree.map(lambda x: 1.02 * x, params))
    return ("stillinger-weber", "nowhere-1", str(other))


def test_each_model_is_run_once_and_what_cannot_be_had_is_skipped(
    tmp_path, of_silicon_alone, names, monkeypatch, capsys
):
    out, calls = tmp_path / "run", []
    config = ModelsConfig(out=out, models=names)
    monkeypatch.setattr(experiment, "fine_tune", pretend(calls, interrupted=True))
    with pytest.raises(Interrupted, match="everything so far is in .*run. ") as stopped:
        experiment.run(config)
    assert stopped.value.signal == signal.SIGTERM
    assert not (out / "results.json").exists()
    assert not (out / "lock").exists()

    # Resumed, the one under way goes on and the others begin.
    calls.clear()
    monkeypatch.setattr(experiment, "fine_tune", pretend(calls))
    resumed = config.model_copy(update={"resume": True})
    experiment.show(experiment.run(resumed).results)
    assert [name for name, _ in calls] == ["models/stillinger-weber", "models/stiffer.safetensors"]
    assert all(resume for _, resume in calls)
    found = json.loads((out / "results.json").read_text())
    assert list(found["models"]) == list(found["runs"]) == [names[0], names[2]]
    assert "no model and no file called nowhere-1" in found["skipped"]["nowhere-1"]
    assert "Skipped: nowhere-1" in capsys.readouterr().out
    for part in ("test", "unseen"):
        assert found["average"][part]["num_models"] == 2
        assert found["average"][part]["bptt_vs_pretrained"]["mean"] == pytest.approx(0.4)

    # Those that are finished are read back; a change of settings is refused.
    experiment.run(resumed)
    assert len(calls) == 2
    assert json.loads((out / "results.json").read_text())["models"] == found["models"]
    with pytest.raises(InputError, match="seed: 0 -> 1"):
        experiment.run(resumed.model_copy(update={"seed": 1}))


@pytest.mark.slow
def test_models_go_through_the_whole_pipeline(tmp_path, of_silicon_alone, names):
    config = ModelsConfig(
        out=tmp_path / "run",
        models=names,
        relaxation=RelaxationSettings(train_steps=3, test_steps=4),
        force_matching=ForceMatchingSettings(epochs=1),
        bptt=BpttSettings(epochs=1, learning_rate=1e-3),
    )
    experiment.run(config)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    for part in ("test", "unseen"):
        blocks = [block if part == "test" else block["unseen"] for block in found["models"].values()]
        assert all(set(STAGES) <= set(block) for block in blocks)
        reductions = [block["reduction"]["bptt_vs_pretrained"] for block in blocks]
        assert found["average"][part]["bptt_vs_pretrained"]["mean"] == pytest.approx(sum(reductions) / 2)
    assert (tmp_path / "run" / "figures" / "models.png").is_file()
    own = [path for path in (tmp_path / "run").iterdir() if (path / "results.json").is_file()]
    assert len(own) == 2
    assert all((path / "seed0" / "bptt.safetensors").is_file() for path in own)

    # A model whose run was cut off goes on from what is there.
    (tmp_path / "run" / "results.json").unlink()
    (tmp_path / "run" / "stillinger-weber" / "results.json").unlink()
    experiment.run(config.model_copy(update={"resume": True}))
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert again["models"] == found["models"]
    assert again["average"] == found["average"]


def test_no_model_at_all_is_an_error(tmp_path, of_silicon_alone):
    config = ModelsConfig(out=tmp_path / "run", models=("nowhere-1", "nowhere-2"))
    with pytest.raises(ModelError, match="no model is left: nowhere-1: .*nowhere-2: "):
        experiment.run(config)
    assert not (tmp_path / "run").exists()


def test_an_interval_over_models_is_wider_than_that_of_one():
    structures = [str(k) for k in range(8)]
    before = {name: [1.0 + 0.1 * k] for k, name in enumerate(structures)}
    after = [{name: [f * before[name][0]] for name in structures} for f in (0.5, 0.7, 0.9)]
    low, high = average_reduction_interval([before] * 3, after)
    # Every structure of a model shrinks alike: what is left is the spread of models.
    assert (low, high) == pytest.approx((0.1, 0.5))
    assert average_reduction_interval([before], after[:1]) == pytest.approx(
        reduction_interval(before, after[0])
    )


def block(scale, names=("a", "b")):
    def stage(factor):
        values = {name: factor * scale * (1 + k) for k, name in enumerate(names)}
        return {
            "delta_q": {
                "mean": sum(values.values()) / len(values),
                "per_structure": values,
                "per_seed": {name: [value] for name, value in values.items()},
            },
            "basin_fraction": 0.5,
        }

    reduction = {
        "bptt_vs_pretrained": 0.4,
        "ci95": [0.3, 0.5],
        "bptt_vs_force_matching": 0.25,
        "bptt_vs_force_matching_ci95": [-0.1, 0.4],
        "force_matching_vs_pretrained": 0.2,
    }
    return {
        "pretrained": stage(1.0),
        "force_matching": stage(0.8),
        "bptt": stage(0.6),
        "reduction": reduction,
    }


@pytest.mark.parametrize("unseen", [True, False])
def test_figure_and_tables_show_every_model(unseen, tmp_path, capsys):
    models = {
        name: block(1 + k) | ({"unseen": block(2 + k)} if unseen else {})
        for k, name in enumerate(("chgnet-0.3.0", "adapt-silicon"))
    }
    results = {
        "models": models,
        "average": experiment.average(models),
        "skipped": {"nequix-mp-1": "no network"},
        "runs": {name: {"own_settings": {"reason": ""}} for name in models},
    }
    figures.draw(tmp_path, results)
    text = (tmp_path / "figures" / "models.svg").read_text()
    parts = 2 if unseen else 1
    assert text.count(">adapt-silicon<") == text.count(">chgnet-0.3.0<") == parts
    assert text.count(">−40%<") == 3 * parts
    print_grids(figures.tables(results))
    printed = capsys.readouterr().out
    assert printed.count("average") >= parts
    assert "Skipped: nequix-mp-1: no network" in printed.replace("\n", " ")
    assert ("never trained on" in printed) is unseen


@pytest.mark.slow
def test_smoke_run(tmp_path):
    try:
        pretrained.load("chgnet-0.3.0")
    except ModelError as error:
        pytest.skip(f"no weights: {error}")
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bptt_relax.experiments.models", "--preset", "smoke", "--out", str(out)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert finished.returncode == 0, finished.stderr
    results = json.loads((out / "results.json").read_text())
    assert list(results["models"]) == ["chgnet-0.3.0", "adapt-silicon"]
    assert results["average"]["unseen"]["num_models"] == 2
    assert not results["skipped"]
