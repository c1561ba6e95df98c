"""The preference experiment: its arms as settings, and whole on a cheap potential."""

import json
import tomllib
from pathlib import Path

import pytest

from bptt_relax.experiments.preference.config import ARMS, PRESETS, PreferenceConfig
from bptt_relax.experiments.preference.run import run, show
from bptt_relax.finetuning.variants import changed

ROOT = Path(__file__).parents[2]


def test_the_arms_train_what_they_say():
    trains = {name: changed(PRESETS["full"], arm.changes).bptt for name, arm in ARMS.items()}
    for name, arm in ARMS.items():
        assert trains[name].learn_potential is (arm.group in ("potential", "both"))
        assert trains[name].learn_rule is (arm.group in ("dynamics", "both"))


@pytest.mark.parametrize(("file", "preset"), [("config.toml", "full"), ("smoke.toml", "smoke")])
def test_the_files_people_edit_are_the_presets(file, preset):
    found = tomllib.loads((ROOT / "experiments" / "preference" / file).read_text())
    assert PreferenceConfig.model_validate(found | {"preset": preset}) == PRESETS[preset]


@pytest.mark.slow
def test_whole_on_a_cheap_potential(tmp_path, monkeypatch, springs, capsys):
    monkeypatch.setattr("bptt_relax.finetuning.comparison.base_model", lambda name: springs)
    settings = {"train_steps": 3, "test_steps": 3}
    relaxation = PRESETS["smoke"].relaxation.model_copy(update=settings)
    # From the pretrained model, so that every arm has something to gain.
    bptt = PRESETS["smoke"].bptt.model_copy(update={"start_from": "pretrained", "learning_rate": 0.05})
    update = {
        "out": tmp_path / "run",
        "relaxation": relaxation,
        "bptt": bptt,
        "arms": ("potential", "dynamics_scales"),
    }
    show(run(PRESETS["smoke"].model_copy(update=update)).results)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    potential, dynamics = found["arms"]["potential"]["seeds"][0], found["arms"]["dynamics_scales"]["seeds"][0]
    assert potential["movement"]["rule"] == 0
    assert dynamics["movement"]["potential"] == 0
    assert potential["end_shift"]["horizon"]["rule_alone"] == 0
    assert (
        potential["end_shift"]["horizon"]["potential_alone"] == potential["end_shift"]["horizon"]["trained"]
    )
    # Each of them moved, or validation kept the start.
    for arm, part in ((potential, "potential"), (dynamics, "rule")):
        assert (arm["movement"][part] > 0) is (arm["best_epoch"]["bptt"] > 0)
    # A table of factors for every element and every step.
    assert len(dynamics["rule_after"]["log_element_scale"]) == 119
    assert len(dynamics["rule_after"]["log_step_scale"]) == 3
    each = next(iter(found["sensitivity"]["per_structure"].values()))
    assert each["steps"] == [2, 4]
    assert min(each["potential"] + each["rule"]) > 0
    assert (tmp_path / "run" / "figures" / "preference.svg").is_file()
    assert "What trains" in capsys.readouterr().out
