"""The crystals experiment: what it trains and tests on, its settings and figure, and a smoke run."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from bptt_relax import datasets
from bptt_relax.experiments.crystals import figures
from bptt_relax.experiments.crystals.config import PRESETS, CrystalsConfig, DataSettings
from bptt_relax.experiments.crystals.run import constant_pressure, make_corpus
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.run import fine_tune
from bptt_relax.finetuning.settings import (
    BpttSettings,
    FineTuningSettings,
    ForceMatchingSettings,
    RelaxationSettings,
)
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.splits import Split
from bptt_relax.models import pretrained
from bptt_relax.outcomes import ModelError

ROOT = Path(__file__).parents[2]
STAGES = ("pretrained", "force_matching", "bptt")


@pytest.mark.parametrize(("file", "preset"), [("config.toml", "full"), ("smoke.toml", "smoke")])
def test_the_files_people_edit_are_the_presets(file, preset):
    found = tomllib.loads((ROOT / "experiments" / "crystals" / file).read_text())
    assert CrystalsConfig.model_validate(found | {"preset": preset}) == PRESETS[preset]


def test_free_and_given_cells_of_one_crystal_are_in_one_part():
    both, free, given = (make_corpus(DataSettings(cells=cells)) for cells in ("both", "free", "given"))
    assert len(both.relaxations) == len(free.relaxations) + len(given.relaxations)
    assert all(changes_cell(r) for r in free.relaxations)
    assert not any(changes_cell(r) for r in given.relaxations)
    for part in ("train", "validation", "test"):
        members = getattr(both.split, part)
        assert sorted(members) == sorted((*getattr(free.split, part), *getattr(given.split, part)))
        kinds = {r.kind for r in both.select(members)}
        assert not kinds & {r.kind for r in both.used if r.name not in members}


def made_up(factor):
    names = ["x_Si_dia_vcrelax_s0", "x_GeC_zb_vcrelax_s0"]
    values = dict(zip(names, (0.02 * factor, -0.01 * factor), strict=True))
    sizes = {name: abs(value) for name, value in values.items()}
    cell = {key: {"per_structure": sizes, "mean": 0.015 * factor} for key in ("volume_error", "strain")}
    cell["volume_change"] = {"per_structure": values, "mean": 0.005 * factor}
    return {"delta_q": {"per_structure": sizes}, "cell": cell}


def test_figure_shows_every_stage_and_the_constant_pressure(tmp_path):
    block = {stage: made_up(factor) for stage, factor in zip(STAGES, (1.0, 0.7, 0.4), strict=True)}
    offset = {"pressure_GPa": -1.23, "test": made_up(0.8)}
    figures.draw(tmp_path, {"models": {"chgnet-0.3.0": block}, "constant_pressure": offset})
    text = (tmp_path / "figures" / "cells.svg").read_text()
    for label in ("pretrained", "force matching", "BPTT", "pretrained at −1.2 GPa", "Si_dia s0, free cell"):
        assert f">{label}<" in text
    assert (tmp_path / "figures" / "cells.png").is_file()


@pytest.mark.slow
def test_a_constant_pressure_does_what_an_offset_in_pressure_asks_for(tmp_path):
    """Stillinger and Weber's lattice is 0.8% narrower than that of the reference method."""
    found = datasets.load("crystals").relaxations
    silicon = [r for r in found if set(r.initial.species.tolist()) == {14} and changes_cell(r)]
    name = "x_Si_{}_vcrelax_s0".format
    parts = Split((name("dia8"),), (name("bc8"),), (name("dia"), name("lons")))
    settings = FineTuningSettings(
        model="stillinger-weber",
        relaxation=RelaxationSettings(train_steps=4, test_steps=80, step_size=0.01, skin=1.5),
        force_matching=ForceMatchingSettings(epochs=0),
        bptt=BpttSettings(epochs=0),
        forgetting=False,
    )
    corpus = Corpus("silicon", "0" * 64, silicon, parts)
    results = fine_tune("crystals", corpus, settings, tmp_path / "run", also=constant_pressure).results
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    offset, (model,) = results["constant_pressure"], results["models"].values()
    before = model["pretrained"]["cell"]["volume_change"]["mean"]
    after = offset["test"]["cell"]["volume_change"]["mean"]
    assert offset["pressure_GPa"] < 0
    assert before < -0.01
    assert abs(after) < 0.5 * abs(before)
    assert set(offset["test"]["cell"]["strain"]["per_structure"]) == set(parts.test)


@pytest.mark.slow
def test_smoke_run(tmp_path):
    try:
        pretrained.load("chgnet-0.3.0")
    except ModelError as error:
        pytest.skip(f"no weights: {error}")
    out = tmp_path / "run"
    program = [sys.executable, "-m", "bptt_relax.experiments.crystals"]
    command = [*program, "--preset", "smoke", "--out", str(out)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert finished.returncode == 0, finished.stderr
    results = json.loads((out / "results.json").read_text())
    model = results["models"]["chgnet-0.3.0"]
    tested = results["dataset"]["test"]
    for stage in STAGES:
        assert set(model[stage]["delta_q"]["per_structure"]) == set(tested)
        assert 0 < model[stage]["cell"]["volume_error"]["mean"] < 0.2
        assert 0 < model[stage]["stress_mae"] < 0.2
    offset = results["constant_pressure"]
    assert np.isfinite(offset["pressure_GPa"])
    assert set(offset["test"]["cell"]["strain"]["per_structure"]) <= set(tested)
    assert (out / "figures" / "cells.png").is_file()
