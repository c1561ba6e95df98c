"""Data efficiency: nested sets, equal time for every arm, convergence; figure from made-up numbers; a smoke run."""

import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bptt_relax import datasets, models
from bptt_relax.experiments._defects import part_of_silicon
from bptt_relax.experiments._settings import PartSettings
from bptt_relax.experiments.data_efficiency import figures
from bptt_relax.experiments.data_efficiency import run as experiment
from bptt_relax.experiments.data_efficiency.config import ARMS, PRESETS, DataEfficiencyConfig
from bptt_relax.experiments.data_efficiency.convergence import Point, converged_at, path
from bptt_relax.experiments.data_efficiency.subsets import end_frames_alone, subset
from bptt_relax.finetuning.comparison import Comparison, Tuned
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.measurement import Measurement
from bptt_relax.finetuning.settings import BpttSettings, ForceMatchingSettings, RelaxationSettings
from bptt_relax.io.splits import Split
from bptt_relax.models import own_model, pretrained
from bptt_relax.outcomes import InputError, ModelError, Outcome
from bptt_relax.relax import Theta
from bptt_relax.report.metrics import MetricsFile
from bptt_relax.report.tables import print_grids
from bptt_relax.runs.session import Finished
from bptt_relax.training import Progress, Relaxed, StageResult

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("file", "preset"), [("config.toml", "full"), ("smoke.toml", "smoke")])
def test_the_files_people_edit_are_the_presets(file, preset):
    found = tomllib.loads((ROOT / "experiments" / "data_efficiency" / file).read_text())
    assert DataEfficiencyConfig.model_validate(found | {"preset": preset}) == PRESETS[preset]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": (2, 1)}, "must be positive and grow"),
        ({"sizes": ()}, "must be positive and grow"),
        ({"sizes": (1, 30)}, "sizes go up to 30, but data.train is 28"),
        ({"num_seeds": 2}, "Extra inputs are not permitted"),
        ({"bptt": BpttSettings(epochs=0)}, "an epoch at least"),
    ],
)
def test_impossible_settings_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        DataEfficiencyConfig(**changes)


def test_arms_share_everything_but_what_they_are_about():
    config = PRESETS["full"]
    base = config.for_arm("recipe", 1)
    assert base.seed == config.seed + 1
    for arm in ARMS:
        settings = config.for_arm(arm, 1, bptt=7)
        assert settings.bptt.epochs == 7
        assert settings.relaxation == base.relaxation
        assert settings.force_matching == base.force_matching
    alone = config.for_arm("structures", 0).bptt
    # Neither forces nor ionic steps, as a label or as a start.
    assert (alone.start_from, alone.force_weight, alone.from_ionic_step) == ("pretrained", 0.0, 0.0)
    assert alone.learning_rate == base.bptt.learning_rate


def test_sets_are_nested_and_epochs_are_equally_long():
    corpus = part_of_silicon(PartSettings(train=25))
    chains = []
    for draw in (0, 1):
        before: set[str] = set()
        for size in (1, 2, 4, 8, 16):
            found = subset(corpus, size, draw, 8)
            names = set(found.split.train)
            assert len(names) == size
            assert before <= names <= set(corpus.split.train)
            assert len(found.split.train) == max(8, size)
            assert found.split[1:] == corpus.split[1:]
            before = names
            ends = end_frames_alone(found)
            for name in names:
                (whole,), (r,) = found.select([name]), ends.select([name])
                assert r.initial is whole.initial
                assert r.relaxed is whole.relaxed
                np.testing.assert_array_equal(r.forces, whole.forces[[whole.start, -1]])
            all_steps = sum(len(r.frames) - r.start for r in found.select(found.split.train))
            assert 2 * len(ends.split.train) == pytest.approx(all_steps, rel=0.1)
            # What is measured on stays whole.
            (held,) = ends.select(ends.split.test[:1])
            assert len(held.frames) > 2
        chains.append(before)
    assert chains[0] != chains[1]
    assert subset(corpus, 4, 0, 8) == subset(corpus, 4, 0, 8)
    with pytest.raises(InputError, match="26 relaxations to learn from, but there are 25"):
        subset(corpus, 26, 0, 8)


def epoch(variant, stage, number, validation, seconds):
    event = {"event": "epoch", "variant": variant, "stage": stage, "epoch": number, "validation": validation}
    return event | ({"seconds": seconds} if number else {})


def test_convergence_counts_stages_one_after_the_other():
    events = [
        epoch("a", "force_matching", 0, 2.0, 0),
        epoch("b", "force_matching", 0, 2.0, 0),
        epoch("a", "force_matching", 1, 1.5, 10),
        epoch("a", "bptt", 0, 1.5, 0),
        epoch("a", "bptt", 1, 1.4, 9),
        epoch("a", "bptt", 1, 1.02, 8),  # resumed: replaces the one before
        epoch("a", "bptt", 2, 1.0, 16),
        epoch("a", "bptt", 3, 1.2, 24),
        epoch("b", "force_matching", 1, 2.5, 10),
    ]
    found = path(events, "a")
    assert found == [(0, 0.0, 2.0), (1, 10.0, 1.5), (2, 18.0, 1.02), (3, 26.0, 1.0), (4, 34.0, 1.2)]
    # 95% of the way from 2 to 1 is 1.05.
    assert converged_at(found) == Point(2, 18.0, 1.02)
    # One that never gets better has converged where it started.
    assert converged_at(path(events, "b")).epoch == 0


class Pretended:
    """A comparison without training: an epoch of force matching takes 2 s, one of BPTT 3 s."""

    def __init__(self, corpus, settings, folder):
        self.corpus, self.settings = corpus, settings
        self.session = SimpleNamespace(folder=folder, metrics=MetricsFile(folder / "metrics.jsonl"))
        self.base = SimpleNamespace(save=lambda path, params: path.touch())
        self.pretrained = Theta(None, None)
        self.asked: dict[str, list] = {"train": [], "match_forces": []}

    def _stage(self, name, epochs, per_epoch, seconds):
        spent = 0.0
        for number in range(epochs + 1):
            spent = min(number * per_epoch, seconds)
            event = {"event": "epoch", "stage": name, "epoch": number, "seconds": spent}
            self.session.metrics.write(event | {"validation": 2.0 / (1 + number)})
        return StageResult(self.pretrained, Progress(epoch=epochs, seconds=spent, score=1.0))

    def train(self, name, settings, label, corpus, seconds=math.inf):
        self.asked["train"].append((name, settings, corpus, seconds))
        self.session.metrics.context["variant"] = name
        stages = {}
        if settings.bptt.start_from == "force_matching":
            stages["force_matching"] = self._stage(
                "force_matching", settings.force_matching.epochs, 2.0, math.inf
            )
        stages["bptt"] = self._stage("bptt", settings.bptt.epochs, 3.0, seconds)
        return Tuned(self.pretrained, stages)

    def match_forces(self, settings, label, corpus, seconds):
        self.asked["match_forces"].append((settings, corpus, seconds))
        return self._stage("force_matching", settings.force_matching.epochs, 2.0, seconds)

    def measure(self, theta, name, label):
        (self.session.folder / name).mkdir()
        size = 0.1 * (len(name) % 7 + 1)
        end = Relaxed(size, size, size, True, 9, 0.01, int(Outcome.CONVERGED), np.zeros((1, 3)))
        return {name: Measurement(end, 0.05, 0.1) for name in self.corpus.held_out}

    def parts(self, runs):
        return Comparison.parts(self, runs)


def test_every_arm_is_asked_for_with_the_time_of_the_first(tmp_path, monkeypatch):
    config = DataEfficiencyConfig(
        bptt=BpttSettings(epochs=3), force_matching=ForceMatchingSettings(epochs=1), sizes=(1, 4), draws=2
    )
    seen = {}

    def compare(name, corpus, settings, work, draw):
        seen["comparison"] = comparison = Pretended(corpus, settings, tmp_path)
        seen["found"] = json.loads(json.dumps(work(comparison)))
        comparison.session.metrics.close()
        draw(tmp_path, seen["found"])
        return Finished(tmp_path, seen["found"])

    monkeypatch.setattr(experiment, "compare", compare)
    experiment.show(experiment.run(config).results)
    found, asked = seen["found"], seen["comparison"].asked
    assert list(found["sizes"]) == ["1", "4"]
    assert len(asked["train"]) == len(asked["match_forces"]) == 2 * 2 * 2
    # One epoch of force matching and three of BPTT take 2 + 3 * 3 s: as long as 11/3 of BPTT, 11/2 of force matching.
    structures = [call for call in asked["train"] if call[0].endswith("structures")]
    assert {(call[1].bptt.epochs, call[3]) for call in structures} == {(4, 11.0)}
    assert {(call[0].force_matching.epochs, call[2]) for call in asked["match_forces"]} == {(6, 11.0)}
    assert {call[1].seed for call in structures} == {0, 1}
    for size, entry in found["sizes"].items():
        assert [len(names) for names in entry["train"]] == [int(size)] * 2
        assert set(entry["against"]) == {f"{a} against {b}" for a, b in experiment.AGAINST}
        for arm in ARMS:
            for draw, went in enumerate(entry["arms"][arm]["draws"]):
                assert went["training_s"] == 11.0
                assert went["path"][0] == {"epoch": 0, "seconds": 0.0, "validation": 2.0}
                assert went["path"][-1]["seconds"] == 11.0
                assert (tmp_path / f"n{size}_draw{draw}_{arm}").is_dir()
            per_seed = entry["arms"][arm]["test"]["delta_q"]["per_seed"]
            assert all(len(values) == 2 for values in per_seed.values())
        reduction = entry["arms"]["recipe"]["reduction"]["test"]["mean"]
        before = found["pretrained"]["test"]["delta_q"]["mean"]
        assert reduction == pytest.approx(1 - entry["arms"]["recipe"]["test"]["delta_q"]["mean"] / before)
    alone = [call[1] for call in asked["match_forces"] if "first and last" in call[1].sha256]
    assert len(alone) == 4
    assert (tmp_path / "figures" / "data_efficiency.png").is_file()


@pytest.mark.slow
def test_every_arm_gets_the_time_of_the_first(tmp_path, monkeypatch):
    data = datasets.load("silicon-defects")
    pure = [r.name for r in data.relaxations if set(r.initial.species.tolist()) == {14}]
    split = Split(tuple(pure[:2]), (pure[2],), (pure[3],), (pure[4],))
    corpus = Corpus(data.name, data.sha256, data.relaxations, split)
    base = own_model(*models.load("stillinger-weber"))
    monkeypatch.setattr("bptt_relax.finetuning.comparison.base_model", lambda name: base)
    monkeypatch.setattr(experiment, "part_of_silicon", lambda part: corpus)
    config = DataEfficiencyConfig(
        data=PartSettings(train=2),
        relaxation=RelaxationSettings(train_steps=3, test_steps=4),
        force_matching=ForceMatchingSettings(epochs=1),
        bptt=BpttSettings(epochs=2, batch_size=1, learning_rate=1e-3, averaging=0.9),
        sizes=(1, 2),
        draws=1,
        least_unrolls=3,
        out=tmp_path / "run",
    )
    experiment.run(config)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(found["sizes"]) == ["1", "2"]
    for size, entry in found["sizes"].items():
        assert [len(names) for names in entry["train"]] == [int(size)]
        for arm in ARMS:
            arm_found = entry["arms"][arm]
            assert len(next(iter(arm_found["test"]["delta_q"]["per_seed"].values()))) == 1
            for draw, went in enumerate(arm_found["draws"]):
                budget = entry["arms"]["recipe"]["draws"][draw]["training_s"]
                # It stops after the first update beyond its time, or where its epochs are over.
                assert went["training_s"] < budget + 1.0
                assert went["path"][0]["epoch"] == 0
                assert went["path"][-1]["seconds"] == pytest.approx(went["training_s"], abs=0.1)
        assert set(entry["against"]) == {f"{a} against {b}" for a, b in experiment.AGAINST}
    assert (tmp_path / "run" / "figures" / "data_efficiency.png").is_file()

    # Interrupted or finished, the same command goes on from what is there.
    (tmp_path / "run" / "results.json").unlink()
    experiment.run(config.model_copy(update={"resume": True}))
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert again["sizes"] == found["sizes"]


def made_up(mean, epochs):
    delta_q = {"mean": mean, "ci95": [0.8 * mean, 1.3 * mean], "per_structure": {"a": mean, "b": mean}}
    draws = [{"converged_at": {"epoch": epochs, "seconds": 7.0 * epochs}}] * 2
    return {part: {"delta_q": delta_q} for part in ("test", "unseen")} | {"draws": draws}


@pytest.mark.parametrize("unseen", [True, False])
def test_figure_and_tables_show_every_arm(unseen, tmp_path, capsys):
    parts = ("test", "unseen") if unseen else ("test",)
    reduction = {part: {"mean": 0.25, "ci95": [-0.1, 0.4]} for part in parts}
    results = {
        "arms": {arm: {"label": variant.label} for arm, variant in ARMS.items()},
        "pretrained": {part: made_up(2.0, 0)[part] for part in parts},
        "sizes": {
            str(size): {
                "arms": {arm: made_up(2.0 - 0.2 * k - 0.05 * i, k) for i, arm in enumerate(ARMS)},
                "against": {f"{a} against {b}": reduction for a, b in experiment.AGAINST},
            }
            for k, size in enumerate((1, 2, 4))
        },
    }
    figures.draw(tmp_path, results)
    text = (tmp_path / "figures" / "data_efficiency.svg").read_text()
    for variant in ARMS.values():
        assert text.count(f">{variant.label}<") == 1
    assert ("never trained on" in text) is unseen
    print_grids(figures.tables(results))
    printed = capsys.readouterr().out
    assert printed.count("2.000") >= len(ARMS)
    assert printed.count("−25% (−40 to +10)") == 3 * len(experiment.AGAINST) * len(parts)
    assert "2.0 (14 s)" in printed


@pytest.mark.slow
def test_smoke_run(tmp_path):
    try:
        pretrained.load("chgnet-0.3.0")
    except ModelError as error:
        pytest.skip(f"no weights: {error}")
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bptt_relax.experiments.data_efficiency"]
    command += ["--preset", "smoke", "--out", str(out)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert finished.returncode == 0, finished.stderr
    results = json.loads((out / "results.json").read_text())
    assert set(results["sizes"]["1"]["arms"]) == set(ARMS)
    assert 0 < results["sizes"]["2"]["arms"]["structures"]["test"]["delta_q"]["mean"] < 20
