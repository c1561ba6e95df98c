"""The forgetting experiment: its remedies as settings, its figure from made-up numbers, and a smoke run."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bptt_relax.experiments.forgetting import figures
from bptt_relax.experiments.forgetting.config import PRESETS, VARIANTS, ForgettingConfig
from bptt_relax.finetuning.variants import changed
from bptt_relax.models import pretrained
from bptt_relax.outcomes import ModelError
from bptt_relax.report.tables import print_grids

ROOT = Path(__file__).parents[2]


def test_each_remedy_changes_what_it_says_and_nothing_else():
    recipes = {name: changed(PRESETS["full"], variant.changes) for name, variant in VARIANTS.items()}
    base = recipes["none"].model_dump()
    for name, variant in VARIANTS.items():
        recipe = recipes[name].model_dump()
        found = {section for section in base if base[section] != recipe[section]}
        assert found == set(variant.changes)
    assert recipes["rank_8"].parameters.rank == 8
    assert recipes["replay_5"].replay.weight == 5.0
    # What all variants share comes from the experiment and not from the defaults of fine-tuning.
    assert recipes["anchor"].bptt.epochs == PRESETS["full"].bptt.epochs == 2


def test_an_unknown_remedy_is_named():
    with pytest.raises(ValueError, match="no variant hope; there are none, replay_1"):
        ForgettingConfig(variants=("none", "hope"))


@pytest.mark.parametrize(("file", "preset"), [("config.toml", "full"), ("smoke.toml", "smoke")])
def test_the_files_people_edit_are_the_presets(file, preset):
    found = tomllib.loads((ROOT / "experiments" / "forgetting" / file).read_text())
    assert ForgettingConfig.model_validate(found | {"preset": preset}) == PRESETS[preset]


def made_up(scale, light="green"):
    block = {
        "light": light,
        "change": 0.05 * scale,
        "scale": 0.068,
        "ratio": scale,
        "worst": "C",
        "worst_change": 0.1,
    }
    blocks = dict.fromkeys(("energy", "volume", "bulk_modulus", "forces"), block)
    short = {
        "light": "green",
        "pairs": 3,
        "holes": [],
        "weakest_share": 0.9,
        "weakest": "C-C",
        "mean_share": 0.95,
    }
    return {"light": light, "blocks": blocks | {"short_range": short}}


def part(mean):
    return {"delta_q": {"mean": mean, "per_structure": {"a": mean, "b": mean}}}


@pytest.mark.parametrize("unseen", [True, False])
def test_figure_and_table_show_every_variant(unseen, tmp_path, capsys):
    parts = ("test", "unseen") if unseen else ("test",)
    variants = {
        name: {"label": variant.label, "remedy": variant.group, "forgetting": made_up(1 + i, "red")}
        | {p: part(1.0 + 0.1 * i) for p in parts}
        for i, (name, variant) in enumerate(VARIANTS.items())
    }
    results = {"pretrained": {p: part(2.0) for p in parts}, "variants": variants}
    figures.draw(tmp_path, results)
    text = (tmp_path / "figures" / "trade_off.svg").read_text()
    for variant in VARIANTS.values():
        assert text.count(f">{variant.label}<") == len(parts)
    assert ("never trained on" in text) is unseen
    print_grids([figures.table(results)])
    printed = capsys.readouterr().out
    assert all(variant.label in printed for variant in VARIANTS.values())


@pytest.mark.slow
def test_smoke_run(tmp_path):
    try:
        pretrained.load("chgnet-0.3.0")
    except ModelError as error:
        pytest.skip(f"no weights: {error}")
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "bptt_relax.experiments.forgetting",
        "--preset",
        "smoke",
        "--out",
        str(out),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert finished.returncode == 0, finished.stderr
    results = json.loads((out / "results.json").read_text())
    assert set(results["variants"]) == {"none", "readout"}
    tuned = {name: results["variants"][name]["forgetting"] for name in results["variants"]}
    assert len(tuned["none"]["crystals"]) >= 20
    # A readout alone can change less than everything.
    assert 0 < tuned["readout"]["blocks"]["forces"]["change"] < tuned["none"]["blocks"]["forces"]["change"]
    assert (out / "figures" / "trade_off.png").is_file()
    # A finished run is read back whole.
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 0, again.stderr
    assert json.loads((out / "results.json").read_text())["variants"] == results["variants"]
