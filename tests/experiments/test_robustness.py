"""The robustness experiment: its variants as settings, its figure from made-up numbers, whole on a cheap potential."""

import json
import tomllib
from pathlib import Path

import pytest

from bptt_relax.experiments.robustness import figures
from bptt_relax.experiments.robustness.config import PRESETS, VARIANTS, RobustnessConfig
from bptt_relax.experiments.robustness.run import run
from bptt_relax.finetuning.variants import changed
from bptt_relax.report.tables import print_grids

ROOT = Path(__file__).parents[2]


def test_each_variant_changes_one_thing():
    base = changed(PRESETS["full"], {}).model_dump()
    for name, variant in VARIANTS.items():
        found = changed(PRESETS["full"], variant.changes).model_dump()
        sections = [section for section in base if base[section] != found[section]]
        assert sections == list(variant.changes), name
        different = [key for key in base[sections[0]] if base[sections[0]][key] != found[sections[0]][key]]
        # Where unrolls start is one thing told by two shares.
        assert set(different) == set(variant.changes[sections[0]]) or variant.group == "starting points", name
    assert changed(PRESETS["full"], {}).bptt.epochs == PRESETS["full"].bptt.epochs == 2


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="no variant hope; there are step_0.01"):
        RobustnessConfig(variants=("hope",))


@pytest.mark.parametrize(("file", "preset"), [("config.toml", "full"), ("smoke.toml", "smoke")])
def test_the_files_people_edit_are_the_presets(file, preset):
    found = tomllib.loads((ROOT / "experiments" / "robustness" / file).read_text())
    assert RobustnessConfig.model_validate(found | {"preset": preset}) == PRESETS[preset]


def part(*values):
    return {
        "delta_q": {"mean": sum(values) / len(values), "ci95": [0.5, 2.0], "per_seed": {"a": list(values)}}
    }


def test_what_bptt_never_improved_is_hollow():
    def faces(best_epoch):
        variant = {"label": "0.5", "group": "clipping", "best_epoch": {"bptt": best_epoch}, "test": part(1.0)}
        both = {"test": part(2.5, 2.6)}
        figure = figures.sensitivity({"pretrained": both, "common": both, "variants": {"clip": variant}})
        return [line.get_markerfacecolor() for line in figure.axes[0].get_lines() if line.get_marker() == "o"]

    assert faces(0) == ["white"]
    assert faces(2) == [figures.WAYS["variant", "common"][0]]


def test_figure_and_table_show_every_variant(tmp_path, capsys):
    steady = {"largest": 40.0, "limit": 80.0}
    variants = {}
    for i, (name, variant) in enumerate(VARIANTS.items()):
        entry = {"label": variant.label, "group": variant.group}
        if variant.group != "threshold of the test":
            entry |= {"test": part(1.0 + 0.1 * i), "unseen": part(3.0), "skipped": {"bptt": i}}
        if "relaxation" in variant.changes:
            entry["stability"] = steady
            entry["tested_with_own"] = {"common": {"test": part(2.0)}, "variant": {"test": part(2.1)}}
        variants[name] = entry
    both = {"test": part(2.5, 2.6), "unseen": part(3.0, 3.0)}
    results = {"pretrained": both, "common": both, "variants": variants}
    figures.draw(tmp_path, results)
    text = (tmp_path / "figures" / "sensitivity.svg").read_text()
    for variant in VARIANTS.values():
        assert f">{variant.label}<" in text
        assert f">{variant.group}<" in text
    assert "hollow" in text
    print_grids([figures.table(results)])
    assert "50%" in capsys.readouterr().out


@pytest.mark.slow
def test_whole_on_a_cheap_potential(tmp_path, monkeypatch, springs):
    monkeypatch.setattr("bptt_relax.finetuning.comparison.base_model", lambda name: springs)
    settings = {"train_steps": 3, "test_steps": 3}
    config = PRESETS["smoke"].model_copy(
        update={
            "out": tmp_path / "run",
            "variants": ("step_0.06", "clip_0.5", "threshold_0.05"),
            "relaxation": PRESETS["smoke"].relaxation.model_copy(update=settings),
        }
    )
    run(config)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    longer, clipped, threshold = (found["variants"][name] for name in config.variants)
    assert set(longer["tested_with_own"]) == {"pretrained", "common", "variant"}
    assert longer["stability"]["step_size"] == pytest.approx(0.06)
    assert "tested_with_own" not in clipped
    # What only changes the test is not trained for.
    assert "test" not in threshold
    assert set(threshold["tested_with_own"]) == {"pretrained", "common"}
    own, common = (longer["tested_with_own"]["variant"]["test"], longer["test"])
    assert own["delta_q"]["mean"] != common["delta_q"]["mean"]
    assert (tmp_path / "run" / "figures" / "sensitivity.png").is_file()
