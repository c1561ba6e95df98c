"""``bptt-relax finetune`` on files of the user's own, with a potential that compiles in a moment."""

import json
import subprocess
import sys

import numpy as np
import pytest

import bptt_relax as br
from bptt_relax import datasets
from bptt_relax.finetuning.own_data import check_methods
from bptt_relax.io import ReadOptions, write_relaxations
from bptt_relax.models import pretrained
from bptt_relax.outcomes import InputError

QUICK = (
    *("--relaxation.train-steps", "4", "--relaxation.test-steps", "10", "--bptt.epochs", "1"),
    *("--force-matching.epochs", "1", "--relaxation.step-size", "0.01"),
)


def finetune(*arguments):
    command = [
        sys.executable,
        "-m",
        "bptt_relax",
        "finetune",
        *map(str, arguments),
        "--model",
        "stillinger-weber",
    ]
    return subprocess.run([*command, *QUICK], capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def silicon():
    """Relaxations of silicon alone."""
    found = datasets.load("silicon-defects").relaxations
    return [r for r in found if set(r.initial.species.tolist()) == {14} and r.info["level"] == "p32"][:7]


def test_structures_alone_are_enough(silicon, tmp_path):
    data = tmp_path / "mine.extxyz"
    pairs = [r._replace(frames=(r.initial, r.relaxed), start=0, energies=None, forces=None) for r in silicon]
    write_relaxations(data, pairs)
    out = tmp_path / "run"
    finished = finetune(data, "--out", out, "--reading.allow-unconverged", "--memory-budget", "10kB")
    assert finished.returncode == 0, finished.stderr
    # Nothing is so small, and the smallest there is gets its chance.
    said = finished.stdout + finished.stderr
    assert "asked for, 10 kB may be taken" in said
    assert "gradients of BPTT: Checkpointed(what='segments'), " in said
    assert "BPTT alone" in finished.stdout + finished.stderr
    results = json.loads((out / "results.json").read_text())
    assert all(line.startswith("Checkpointed(what='segments'), ") for line in results["memory"])
    used = results["dataset"]
    parts = [used["train"], used["validation"], used["test"]]
    assert all(parts)
    assert sorted(name for part in parts for name in part) == sorted(r.name for r in silicon)
    model = results["models"]["stillinger-weber"]
    assert set(model) >= {"pretrained", "bptt", "reduction"}
    assert "force_matching" not in model
    assert model["bptt"]["force_mae"] is None
    assert np.isfinite(model["reduction"]["bptt_vs_pretrained"])
    tuned, _ = pretrained.load(out / "seed0" / "bptt.safetensors")
    assert tuned.name == "stillinger-weber"
    assert (out / "seed0" / "bptt.extxyz").is_file()
    # Stillinger and Weber's silicon knows no other chemistry that it could forget.
    assert "no forgetting check" in finished.stdout + finished.stderr
    assert "forgetting" not in results
    card = (out / "seed0" / "bptt.model-card.md").read_text()
    assert "published numbers" in card
    assert results["dataset"]["sha256"] in card
    assert f"{model['bptt']['delta_q']['mean']:.3f}" in card

    assert finetune(data, "--out", out, "--reading.allow-unconverged").returncode == 2, (
        "nothing is written over"
    )


def test_too_few_relaxations_are_refused_before_anything_is_written(silicon, tmp_path):
    data = tmp_path / "few.extxyz"
    write_relaxations(data, silicon[:3])
    finished = finetune(data, "--out", tmp_path / "run")
    assert finished.returncode == 2
    assert "too few" in finished.stderr
    assert not (tmp_path / "run").exists()


def test_an_unfinished_relaxation_is_named(silicon, tmp_path):
    data = tmp_path / "mine.extxyz"
    unfinished = silicon[0]._replace(
        frames=silicon[0].frames[:2], forces=silicon[0].forces[:2], energies=None
    )
    write_relaxations(data, [unfinished, *silicon[1:]])
    finished = finetune(data, "--out", tmp_path / "run")
    assert finished.returncode == 2
    assert silicon[0].name in finished.stderr
    assert "--reading.skip-bad" in finished.stderr


def test_a_group_of_parameters_that_is_not_there_is_refused_before_anything_is_written(silicon, tmp_path):
    data = tmp_path / "mine.extxyz"
    write_relaxations(data, silicon)
    finished = finetune(
        data, "--out", tmp_path / "run", "--parameters.train-only", "readout", "--reading.skip-bad"
    )
    assert finished.returncode == 2
    assert "no parameter is called readout; there are A, B" in finished.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"functional": "PBEsol"}, "different functionals in one data set: PBE (p32"),
        ({"pseudopotentials": {"Si": "Si_sv"}}, "different pseudopotentials of Si in one data set"),
        ({"hubbard": {"Si": "U 2"}}, "different +U of Si in one data set"),
    ],
)
def test_methods_are_not_mixed_unless_that_is_wanted(silicon, tmp_path, changes, said):
    made = {"functional": "PBE", "pseudopotentials": {"Si": "Si"}, "hubbard": {"Si": "U 1"}}
    alike = [r._replace(calculation=r.calculation._replace(**made)) for r in silicon]
    mixed = [*alike[:-1], alike[-1]._replace(calculation=alike[-1].calculation._replace(**changes))]
    with pytest.raises(InputError) as refused:
        br.finetune(mixed, "stillinger-weber", out=tmp_path / "run")
    assert said in str(refused.value)
    assert silicon[-1].name in str(refused.value)
    assert str(refused.value).endswith("keep to one, or accept it with --reading.allow-mixed")
    assert not (tmp_path / "run").exists()
    check_methods(alike, ReadOptions())
    check_methods(mixed, ReadOptions(allow_mixed=True))
