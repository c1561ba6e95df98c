"""Pretraining at its smoke size, on forces made up here: the public data are not part of the repository."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from bptt_relax.experiments import _main
from bptt_relax.experiments.pretrain import frames
from bptt_relax.experiments.pretrain.config import PRESETS, PretrainConfig
from bptt_relax.experiments.pretrain.kinds import impurity_weights
from bptt_relax.experiments.pretrain.run import split
from bptt_relax.io import to_structure
from bptt_relax.models import pretrained


def make_file(path, count, *, forces=True):
    """Silicon in a trap: every atom is drawn back to its site."""
    rng = np.random.default_rng(count)
    images = []
    for k in range(count):
        atoms = bulk("Si", cubic=True, a=5.43)
        moved = 0.1 * rng.normal(size=atoms.positions.shape)
        atoms.positions += moved
        atoms.info["config_type"] = "hot" if k % 2 else "cold"
        if forces:
            atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=-5.0 * moved)
        images.append(atoms)
    write(path, images, format="extxyz")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return make_file(folder / "train.extxyz", 12), make_file(folder / "test.extxyz", 3)


def start(*arguments):
    command = [
        sys.executable,
        "-m",
        "bptt_relax.experiments.pretrain",
        "--preset",
        "smoke",
        *map(str, arguments),
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(process, code):
    output, errors = process.communicate(timeout=200)
    assert process.returncode == code, errors
    return output, errors


@pytest.mark.slow
def test_from_files_to_weights_through_an_interruption(files, tmp_path):
    out = tmp_path / "run"
    given = ("--data", files[0], "--test", files[1], "--out", out)
    process = start(*given, "--adapt.training.epochs", "40")
    metrics = out / "metrics.jsonl"
    while not (metrics.is_file() and '"step"' in metrics.read_text()):
        assert process.poll() is None, finish(process, 0)
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert "--resume" in finish(process, 130)[1]

    assert "adapt.training.epochs: 40 -> 2" in finish(start(*given, "--resume"), 2)[1]
    output, _ = finish(start(*given, "--resume", "--adapt.training.epochs", "40"), 0)
    assert "test: force MAE" in output
    results = json.loads((out / "results.json").read_text())
    assert (results["experiment"], results["model"]) == ("pretrain", "adapt-silicon")
    assert set(results["errors"]["test"]) == {"all", "hot", "cold"}
    validated = [json.loads(line) for line in metrics.read_text().splitlines()]
    scores = [event["validation"] for event in validated if event["event"] == "epoch"]
    # What was kept is what validated best, read back from the file.
    assert results["errors"]["validation"]["all"]["mae"] == pytest.approx(min(scores), rel=1e-4)
    assert (out / "figures" / "adapt-silicon_errors.png").is_file()
    potential, params = pretrained.load(out / "weights.safetensors")
    assert potential.name == "adapt-silicon"
    assert (
        sum(leaf.size for leaf in params["layer_0"]["attention"].values() if hasattr(leaf, "size"))
        == 3 * 16**2
    )


@pytest.mark.slow
def test_nequip_from_files_to_weights_with_a_row_for_every_element(files, tmp_path):
    out = tmp_path / "run"
    finish(start("--kind", "nequip", "--data", files[0], "--test", files[1], "--out", out), 0)
    results = json.loads((out / "results.json").read_text())
    assert (results["model"], results["best_epoch"]) == ("nequip-silicon", 2)
    potential, params = pretrained.load(out / "weights.safetensors")
    assert potential.name == "nequip-silicon"
    assert potential.conservative
    (table,) = params["Linear_0"].values()
    assert table.shape == (16, 4)
    np.testing.assert_array_equal(table, np.broadcast_to(table[:1], table.shape))


def test_an_element_without_a_row_is_named(files):
    from bptt_relax.experiments.pretrain import kinds
    from bptt_relax.outcomes import InputError

    points = frames.read(files[0], "--data")
    points[0].structure.species[0] = 92
    with pytest.raises(InputError, match="holds the elements U, for which nequip has no rows"):
        kinds.KINDS["nequip"](PRESETS["smoke"], points)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--data is missing: the bundled models were trained on the silicon part of mlearn"),
        (("--data", "absent.xyz"), "--data absent.xyz: no such file"),
    ],
)
def test_absent_data_are_named_with_where_to_get_them(tmp_path, arguments, message):
    _, errors = finish(start("--out", tmp_path / "run", *arguments), 2)
    assert message in errors
    assert "10.1021/acs.jpca.9b08723" in errors
    device, sentence = errors.splitlines()
    assert device.startswith("on ")
    assert sentence.startswith("error: ")
    assert not (tmp_path / "run").exists()


def test_frames_without_forces_are_refused(tmp_path):
    from bptt_relax.outcomes import InputError

    path = make_file(tmp_path / "bare.extxyz", 2, forces=False)
    with pytest.raises(InputError, match="2 of 2 structures have no forces"):
        frames.read(path, "--data")


def test_validation_is_drawn_from_each_group_and_always_the_same(files):
    points = frames.read(files[0], "--data")
    train, validation = split(points, 0.2, seed=1)
    assert len(train) + len(validation) == 12
    assert {point.group for point in validation} == {"hot", "cold"}
    assert [p.structure.name for p in split(points, 0.2, seed=1)[1]] == [p.structure.name for p in validation]
    assert not {p.structure.name for p in train} & {p.structure.name for p in validation}


def test_atoms_near_impurities_weigh_more():
    atoms = bulk("Si", cubic=True, a=5.43)
    np.testing.assert_array_equal(impurity_weights(to_structure(atoms, "pure")), 1.0)
    atoms.numbers[0] = 28
    weights = impurity_weights(to_structure(atoms, "doped"))
    assert weights[0] == 10.0
    distances = atoms.get_distances(0, range(1, 8), mic=True)
    np.testing.assert_allclose(weights[1:], 1 + 5.4 / distances**2)


@pytest.mark.parametrize(("file", "preset"), [("config.toml", "full"), ("smoke.toml", "smoke")])
def test_the_files_people_edit_are_the_presets(monkeypatch, file, preset):
    path = Path(__file__).parents[2] / "experiments" / "pretrain" / file
    monkeypatch.setattr(sys, "argv", ["pretrain", "--config", str(path)])
    config = _main.parse(PretrainConfig, PRESETS, "full", "pretrain", "description")
    assert config.resolved() | {"preset": preset} == PRESETS[preset].resolved()
