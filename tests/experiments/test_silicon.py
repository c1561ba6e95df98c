"""The silicon experiment at its smoke size: real data, real model, minutes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bptt_relax import datasets
from bptt_relax.models import pretrained
from bptt_relax.outcomes import ModelError

STAGES = ("pretrained", "force_matching", "bptt")


@pytest.fixture(scope="module", autouse=True)
def weights():
    try:
        pretrained.load("chgnet-0.3.0")
    except ModelError as error:
        pytest.skip(f"no weights: {error}")


def start(out, *arguments):
    command = [sys.executable, "-m", "bptt_relax.experiments.silicon", "--preset", "smoke", "--out", str(out)]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, code):
    """What it said on standard error, once it ended with this exit code."""
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    return errors


@pytest.mark.slow
def test_smoke_run_survives_an_interruption(tmp_path):
    out = tmp_path / "run"
    process = start(out)
    metrics = out / "metrics.jsonl"
    while not (metrics.is_file() and '"step"' in metrics.read_text()):
        assert process.poll() is None, finish(process, 0)
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert "--resume" in finish(process, 130)
    assert not (out / "results.json").exists()
    assert not (out / "lock").exists()

    assert "is not empty" in finish(start(out), 2)
    assert "bptt.epochs: 1 -> 2" in finish(start(out, "--resume", "--bptt.epochs", "2"), 2)

    process = start(out, "--resume")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "BPTT" in output
    results = json.loads((out / "results.json").read_text())
    assert results["schema"] == 1
    assert results["dataset"]["sha256"]
    held_out = results["dataset"]["test"]
    model = results["models"]["chgnet-0.3.0"]
    for stage in STAGES:
        assert set(model[stage]["delta_q"]["per_structure"]) == set(held_out)
        assert 0 <= model[stage]["basin_fraction"] <= 1
        assert 0 < model[stage]["force_mae"] < 1
    before, after = model["pretrained"]["delta_q"]["mean"], model["bptt"]["delta_q"]["mean"]
    assert model["reduction"]["bptt_vs_pretrained"] == pytest.approx(1 - after / before)
    assert len(list((out / "figures").glob("*.png"))) == 4
    tuned, _ = pretrained.load(out / "seed0" / "bptt.safetensors")
    assert tuned.name == "chgnet-0.3.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "chgnet-9"], "no model and no file called chgnet-9; models: chgnet-0.3.0"),
        (["--model", "stillinger-weber"], "does not cover O (in p32_bc_O_s0)"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, arguments, message):
    process = start(tmp_path / "run", *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert message in errors
    device, sentence = errors.splitlines()
    assert device.startswith("on ")
    assert sentence.startswith("error: "), "one sentence, no traceback"
    assert not (tmp_path / "run").exists()


def test_a_damaged_dataset_is_named(tmp_path):
    program = (
        "import sys; from bptt_relax.datasets import _bundle; from pathlib import Path\n"
        f"_bundle.HERE = Path({str(tmp_path)!r})\n"
        "from bptt_relax.outcomes import run_program; from bptt_relax.experiments.silicon.__main__ import main\n"
        f"sys.argv = ['silicon', '--preset', 'smoke', '--out', {str(tmp_path / 'run')!r}]\n"
        "run_program(main)"
    )
    for file in Path(datasets.__path__[0]).iterdir():
        if file.suffix in (".xz", ".json"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    damaged = tmp_path / "silicon_defects.extxyz.xz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert "silicon_defects.extxyz.xz" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "run").exists()
