"""The adjoints experiment: its variants as settings, its figure from made-up numbers, and a smoke run."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bptt_relax import datasets, models
from bptt_relax.experiments.adjoints import figures
from bptt_relax.experiments.adjoints.config import PRESETS, VARIANTS, AdjointsConfig, StartSettings
from bptt_relax.experiments.adjoints.cost import costs
from bptt_relax.experiments.adjoints.run import outcome as measured_outcome
from bptt_relax.experiments.adjoints.run import run
from bptt_relax.finetuning.competing import candidates
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.measurement import Measurement
from bptt_relax.finetuning.settings import RelaxationSettings
from bptt_relax.finetuning.variants import changed
from bptt_relax.io.splits import Split
from bptt_relax.models import own_model, pretrained
from bptt_relax.outcomes import ModelError
from bptt_relax.report.tables import print_grids
from bptt_relax.training import Example, Gradients, Objective, Relaxed, Stage, Term

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("file", "preset"), [("config.toml", "full"), ("smoke.toml", "smoke")])
def test_the_files_people_edit_are_the_presets(file, preset):
    found = tomllib.loads((ROOT / "experiments" / "adjoints" / file).read_text())
    assert AdjointsConfig.model_validate(found | {"preset": preset}) == PRESETS[preset]


def test_variants_differ_in_the_adjoint_alone():
    base = changed(PRESETS["full"], {})
    for name, variant in VARIANTS.items():
        found = changed(PRESETS["full"], variant.changes)
        adjoint = "full" if name == "forces" else name
        assert found == base.model_copy(update={"bptt": base.bptt.model_copy(update={"adjoint": adjoint})})


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match="no variant reverse; there are full, guided_8"):
        AdjointsConfig(variants=("full", "reverse"))
    with pytest.raises(ValueError, match="starts from the pretrained model"):
        AdjointsConfig(bptt={"start_from": "force_matching"})
    with pytest.raises(ValueError, match="screen must be a part of fractions"):
        StartSettings(screen=(0.1,))


def stage(name, direction):
    """The gradient of its first term lies along a direction, that of its second along theta."""

    def value_and_grad(of):
        return lambda theta, example: ((jnp.sum(theta), jnp.asarray(1)), of(theta, example))

    ends = Objective(value_and_grad(lambda theta, example: example * jnp.asarray(direction)))
    forces = Objective(value_and_grad(lambda theta, example: example * theta))
    terms = [Term(Gradients([forces], devices=jax.local_devices()[:1]), 10.0)]
    if direction is not None:
        terms.insert(0, Term(Gradients([ends], devices=jax.local_devices()[:1])))

    def batches(epoch, first):
        for k in range(first, 2):
            parts = tuple(tuple(Example(str(k), np.full(3, 1.0 + k + n)) for n in range(2)) for _ in terms)
            yield parts

    return Stage(name, tuple(terms), optax.sgd(0.1), batches, 1)


def test_costs_compare_what_gradients_say_of_the_structure_alone():
    directions = {
        "full": [1.0, 0, 0],
        "near": [1.0, 1.0, 0],
        "against": [-2.0, 0, 0],
        "implicit": [0.0, 0, 0],
        "forces": None,
    }
    told = []
    found = costs(
        {name: stage(name, direction) for name, direction in directions.items()},
        jnp.array([0.3, -0.7, 0.2]),
        3,  # more than an epoch has
        forces="forces",
        on_update=lambda: told.append(1),
    )
    assert len(told) == 3 * len(found) == 15
    assert all(cost.seconds > 0 and cost.temporary_bytes >= 0 for cost in found.values())
    cosines = {name: cost.cosine for name, cost in found.items()}
    assert cosines["full"] == pytest.approx(1.0)
    assert cosines["near"] == pytest.approx(np.sqrt(0.5))
    assert cosines["against"] == pytest.approx(-1.0)
    # No gradient of a structure at all: not usable, and nothing to compare.
    assert (found["implicit"].usable, cosines["implicit"]) == (0.0, None)
    assert found["full"].usable == 1.0
    assert (found["forces"].usable, found["forces"].cosine) == (None, None)


def test_hits_are_counted_by_defect():
    kept = [r for r in datasets.load("silicon-defects").relaxations if r.kind in ("V", "bulk")][:2]
    chosen = [start for r in kept for start in candidates(r, (0.0,))]

    def measured(distance):
        relaxed = Relaxed(1.0, 0.1, distance, True, 10, 0.01, 1, np.zeros((1, 3)))
        return Measurement(relaxed, None, 0.1)

    ends = {start.name: measured(0.1 if "+" in start.name else 0.4) for start in chosen}
    found = measured_outcome(chosen, ends | {"another": measured(0.0)})["basins"]
    assert (found["hits"], found["starts"], found["rate"]) == (6, 8, 0.75)
    assert found["by_defect"] == {r.name: [3, 4] for r in kept}
    assert 0.3 < found["ci95"][0] < 0.75 < found["ci95"][1] <= 1.0


def outcome(rate, mean):
    block = {"delta_q": {"mean": mean, "per_structure": {"a": mean}}}
    basins = {
        "starts": 50,
        "hits": int(50 * rate),
        "rate": rate,
        "ci95": [rate - 0.1, rate + 0.1],
        "by_defect": {"a": [3, 8]},
    }
    return {"basins": basins, "test": block, "unseen": block}


def test_figure_and_table_show_every_variant(tmp_path, capsys):
    variants = {}
    for i, (name, variant) in enumerate(VARIANTS.items()):
        forces = name == "forces"
        cost = {
            "temporary_bytes": 1e8 + 1e7 * i,
            "seconds": 1.0 + i,
            "usable": None if forces else 0.8,
            "cosine": None if forces else 0.5,
        }
        variants[name] = {"label": variant.label, "group": variant.group, "cost": cost, "updates": 100 - i}
        variants[name] |= outcome(0.4 + 0.05 * i, 2.0 - 0.1 * i)
    results = {"seconds": 240.0, "pretrained": outcome(0.35, 2.2), "variants": variants}
    figures.draw(tmp_path, results)
    text = (tmp_path / "figures" / "adjoints.svg").read_text()
    for variant in VARIANTS.values():
        assert f">{variant.label}<" in text
    print_grids([figures.table(results)])
    printed = capsys.readouterr().out
    assert all(variant.label in printed for variant in VARIANTS.values())
    assert "20/50" in printed


@pytest.mark.slow
def test_the_whole_on_a_cheap_potential(tmp_path, monkeypatch):
    """Stillinger-Weber on pure silicon, through the experiment's own code."""
    data = datasets.load("silicon-defects")
    named = {r.kind: r.name for r in data.relaxations if set(r.initial.species.tolist()) == {14}}
    split = Split((named["V"],), (named["split110_Si"],), (named["VV"],), (named["tet_Si"],))
    corpus = Corpus(data.name, data.sha256, data.relaxations, split)
    base = own_model(*models.load("stillinger-weber"))
    monkeypatch.setattr("bptt_relax.finetuning.comparison.base_model", lambda name: base)
    monkeypatch.setattr("bptt_relax.experiments.adjoints.run.part_of_silicon", lambda part: corpus)
    # Whether this potential has competing minima is not the question here.
    monkeypatch.setattr(
        "bptt_relax.experiments.adjoints.run.competing",
        lambda starts, endings: [named["VV"], named["tet_Si"]],
    )
    config = AdjointsConfig(
        out=tmp_path / "run",
        starts=StartSettings(count=7, screen=(0.5,), fractions=(0.5, 0.75)),
        relaxation=RelaxationSettings(step_size=0.02, train_steps=9, test_steps=120, skin=1.0),
        seconds=1.5,
        timed=1,
        variants=("full", "guided_8", "forces"),
    )
    run(config)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["competing"]["starts"]) == 7
    assert results["competing"]["defects"][named["VV"]]["starts"] == 4
    variants = results["variants"]
    assert set(variants) == {"full", "guided_8", "forces"}
    (vacancy,) = corpus.select([named["V"]])
    updates = {"full": 1, "guided_8": 1, "forces": (len(vacancy.frames) - vacancy.start) // 4}
    for name, variant in variants.items():
        assert variant["updates"] > 0, name
        # As many epochs as come closest to the time, at the measured cost.
        assert variant["epochs"] == max(1, round(1.5 / (updates[name] * variant["cost"]["seconds"])))
        assert variant["basins"]["starts"] == 7
        assert variant["cost"]["temporary_bytes"] > 0
    cosines = {name: variant["cost"]["cosine"] for name, variant in variants.items()}
    assert cosines["full"] == pytest.approx(1.0, abs=1e-9)
    assert cosines["forces"] is None
    assert cosines["guided_8"] > 0.3
    run(config.model_copy(update={"resume": True}))
    assert json.loads((tmp_path / "run" / "results.json").read_text())["variants"] == variants


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
        "bptt_relax.experiments.adjoints",
        "--preset",
        "smoke",
        "--out",
        str(out),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert finished.returncode == 0, finished.stderr
    results = json.loads((out / "results.json").read_text())
    assert set(results["variants"]) == {"full", "guided_8", "forces"}
    before = results["pretrained"]["basins"]
    # What competes is what the pretrained model finds in some cases and not in others.
    assert all(0 < hits < starts for hits, starts in before["by_defect"].values())
    costs = {name: variant["cost"] for name, variant in results["variants"].items()}
    assert costs["full"]["cosine"] == pytest.approx(1.0, abs=1e-3)
    assert costs["forces"]["seconds"] < costs["full"]["seconds"]
    assert (out / "figures" / "adjoints.png").is_file()
    # A finished run is read back whole.
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 0, again.stderr
    assert json.loads((out / "results.json").read_text())["variants"] == results["variants"]
