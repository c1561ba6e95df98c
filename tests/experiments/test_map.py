"""The map experiment: settings, where its models come from, the figure from made-up numbers, and a smoke run."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from bptt_relax import datasets, models
from bptt_relax.experiments.map import figures
from bptt_relax.experiments.map.config import PRESETS, MapConfig, MapSettings
from bptt_relax.experiments.map.measure import RelaxationMap, rattled
from bptt_relax.experiments.map.run import plane, run
from bptt_relax.finetuning.relaxation import make_rule
from bptt_relax.finetuning.settings import RelaxationSettings
from bptt_relax.models import pretrained
from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.relax import Theta
from bptt_relax.report.tables import print_grids

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("file", "preset"), [("config.toml", "full"), ("smoke.toml", "smoke")])
def test_the_files_people_edit_are_the_presets(file, preset):
    found = tomllib.loads((ROOT / "experiments" / "map" / file).read_text())
    assert MapConfig.model_validate(found | {"preset": preset}) == PRESETS[preset]


def test_a_run_to_measure_must_be_one(tmp_path):
    config = PRESETS["smoke"].model_copy(update={"run": tmp_path, "out": tmp_path / "out"})
    with pytest.raises(InputError, match="has no tuned models .no seed folder."):
        run(config)
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed0" / "bptt.safetensors").write_bytes(b"weights")
    with pytest.raises(InputError, match=r"seed0/force_matching.safetensors\): give the folder"):
        run(config)
    (tmp_path / "seed0" / "force_matching.safetensors").write_bytes(b"weights")
    with pytest.raises(InputError, match="config.json is not the configuration"):
        run(config)
    found = {"model": "chgnet-0.2.0", "relaxation": {}, "bptt": {"learn_rule": False}}
    (tmp_path / "config.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="tuned chgnet-0.2.0, and --model is chgnet-0.3.0"):
        run(config)
    # What counts is which models they are, not where they lie.
    assert set(config.resolved()["run"]) == {"force_matching", "bptt"}
    assert str(tmp_path) not in json.dumps(config.resolved())
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def silicon():
    """Rattled silicon, whose minimum Stillinger-Weber shares."""
    relaxations = datasets.load("silicon-defects").relaxations
    return next(r for r in relaxations if r.kind == "bulk")


@pytest.fixture(scope="module")
def measured(silicon):
    potential, params = models.load("stillinger-weber")
    relaxation = RelaxationSettings(step_size=0.02, test_steps=60, skin=1.0)
    how = MapSettings(tolerance=0.003, steps=200, rattles=(0.02, 0.5), draws=1)
    theta = Theta(params, make_rule(relaxation).hyper)
    return RelaxationMap(potential, [silicon], relaxation, how)(theta, silicon)


@pytest.mark.slow
def test_what_is_measured_of_a_map_hangs_together(measured, silicon):
    assert json.loads(json.dumps(measured)) == measured
    fixed, curves = measured["fixed_point"], measured["convergence"]
    assert fixed["converged"]
    assert curves["converged"]
    assert fixed["radius"] < 1 < fixed["norm"]
    assert fixed["rigid_radius"] == pytest.approx(1.0, abs=1e-6)
    # The first of the curve is Delta Q of the start, the last of the distance to the end is none.
    assert curves["to_end"][-1] == 0
    assert len(curves["to_end"]) == len(curves["to_reference"]) == len(measured["path"])
    moved = silicon.initial.positions - silicon.relaxed.positions
    moved = moved - moved.mean(axis=0)
    start = np.sqrt(np.sum(silicon.initial.masses[:, None] * moved**2))
    assert curves["to_reference"][0] == pytest.approx(start, rel=1e-4)
    # The residual says how long the first step is and, softened by the stiffness, about how far the fixed point lies.
    residual = measured["residual"]
    assert residual["step"] == pytest.approx(0.02 * np.linalg.norm(residual["force"]), rel=1e-4)
    assert len(residual["stiffness"]) == 3 * len(moved) - 3
    assert residual["linear_delta_q"] == pytest.approx(fixed["delta_q"], rel=0.5)


@pytest.mark.slow
def test_a_small_rattle_comes_back_to_the_models_own_minimum(measured, silicon):
    small, large = measured["basin"]
    assert (small["rattle"], small["to_own"]) == (0.02, 1.0)
    assert large["to_own"] <= small["to_own"]
    one, other = (rattled(silicon.relaxed, amplitude, 0).positions for amplitude in (0.1, 0.2))
    home = silicon.relaxed.positions
    np.testing.assert_allclose(other - home, 2 * (one - home), atol=1e-12)


def made_up(scale):
    rng = np.random.default_rng(int(10 * scale))
    stiffness = np.sort(rng.uniform(0.5, 25.0, size=93))
    curve = list(4 * 0.9 ** np.arange(60) + scale)
    return {
        "residual": {
            "max_force": 0.3 * scale,
            "rms_force": 0.1 * scale,
            "step": 0.01 * scale,
            "linear_delta_q": scale,
            "stiffness": stiffness.tolist(),
            "force": np.abs(rng.normal(scale=0.05 * scale, size=93)).tolist(),
        },
        "fixed_point": {"radius": 0.9, "norm": 1.3, "rigid_radius": 1.0, "delta_q": scale},
        "convergence": {
            "converged": True,
            "to_reference": curve,
            "to_end": [*(np.array(curve[:-1]) - scale), 0.0],
            "same_basin": True,
        },
        "basin": [
            {"rattle": r, "to_reference": max(0, 1 - r * scale), "to_own": 1.0} for r in (0.1, 0.2, 0.4)
        ],
        "path": [[[0.1 * t, 0.0, 0.0], [0.0, 0.0, 0.02 * t]] for t in range(4)],
    }


@pytest.mark.parametrize("stages", [("pretrained", "force_matching", "bptt"), ("pretrained", "bptt")])
def test_figure_and_table_show_every_model(stages, silicon, tmp_path, capsys):
    pair = silicon.relaxed._replace(
        species=silicon.relaxed.species[:2],
        masses=silicon.relaxed.masses[:2],
        positions=np.zeros((2, 3)),
        free=silicon.relaxed.free[:2],
    )
    reference = silicon._replace(name="p32_V_s1", frames=(pair,), start=0)
    maps = {stage: {"p32_V_s1": made_up(2.0 - 0.5 * i)} for i, stage in enumerate(stages)}
    config = {"relaxation": {"rule": "momentum", "mix": "heavy_ball", "decay": 0.7}}
    results = {
        "config": config,
        "models": maps,
        "structures": ["p32_V_s1"],
        "plane": plane(maps, [reference]),
    }
    # Both atoms move against one another: what is left without the drift is half of it each.
    last = results["plane"]["paths"]["pretrained"][-1]
    drift_free = np.array([[0.15, 0, -0.03], [-0.15, 0, 0.03]])
    assert np.linalg.norm(last) == pytest.approx(np.sqrt(28.085 * np.sum(drift_free**2)), rel=1e-3)
    figures.draw(tmp_path, results)
    text = (tmp_path / "figures" / "map.svg").read_text()
    assert text.count("vacancy s1") == 1
    for letter in "abcdef":
        assert f">{letter}   " in text
    print_grids([figures.table(results)])
    printed = capsys.readouterr().out
    assert all(label in printed for label in ("pretrained", "BPTT"))
    assert ("force matching" in printed) is ("force_matching" in stages)


@pytest.mark.slow
def test_smoke_run(tmp_path):
    try:
        pretrained.load("chgnet-0.3.0")
    except ModelError as error:
        pytest.skip(f"no weights: {error}")
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bptt_relax.experiments.map", "--preset", "smoke", "--out", str(out)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert finished.returncode == 0, finished.stderr
    results = json.loads((out / "results.json").read_text())
    assert set(results["models"]) == {"pretrained", "force_matching", "bptt"}
    for maps in results["models"].values():
        (one,) = maps.values()
        assert 0 < one["fixed_point"]["radius"] < 1.01
        assert one["fixed_point"]["rigid_radius"] == pytest.approx(1.0, abs=1e-3)
    assert (out / "figures" / "map.png").is_file()
    # A finished run is read back whole.
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 0, again.stderr
    assert json.loads((out / "results.json").read_text())["models"] == results["models"]
