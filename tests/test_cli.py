import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bptt_relax import cli, datasets, io
from bptt_relax.models import parity
from bptt_relax.outcomes import InputError

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"


def test_help_and_models_are_light():
    program = (
        "import sys; from bptt_relax import cli\n"
        "code = cli.main(['models'])\n"
        "print(code, sorted({'jax_md', 'torch'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *models, last = finished.stdout.splitlines()
    assert last == "0 []"
    assert any(line.startswith("chgnet-0.3.0") and "PBE" in line for line in models)


def test_check_counts_what_is_good_and_names_what_is_not(tmp_path, capsys):
    good, bad = datasets.load("silicon-defects").relaxations[:2]
    io.write_relaxations(tmp_path / "good.extxyz", [good])
    io.write_relaxations(
        tmp_path / "bad.extxyz",
        [
            bad._replace(
                frames=bad.frames[:3],
                energies=bad.energies[:3],
                forces=bad.forces[:3],
                stresses=bad.stresses[:3],
            )
        ],
    )
    assert cli.main(["check", str(tmp_path), "--rejected-to", str(tmp_path / "rejected.csv")]) == 2
    output = capsys.readouterr()
    assert "1 relaxations fit for use" in output.out
    assert "bad.extxyz" in output.err
    assert "bad" in Path(tmp_path / "rejected.csv").read_text()
    (tmp_path / "bad.extxyz").unlink()
    assert cli.main(["check", str(tmp_path)]) == 0


def test_models_are_fetched_verified_and_found_damaged(tmp_path, monkeypatch, capsys):
    if not WEIGHTS.is_dir():
        pytest.skip("the published nequix files are not on this machine")
    monkeypatch.setenv("BPTT_RELAX_CACHE", str(tmp_path))
    assert cli.main(["models", "verify"]) == 0
    assert cli.main(["models", "verify", "nequix-mp-1"]) == 2
    assert "not in the cache: bptt-relax models fetch nequix-mp-1" in capsys.readouterr().out
    fetch = ["models", "fetch", "nequix-mp-1", "--source", str(WEIGHTS)]
    assert cli.main(fetch) == 0
    assert cli.main(["models", "verify"]) == 0
    assert "707658 parameters" in capsys.readouterr().out
    weights = tmp_path / "nequix-mp-1" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert cli.main(["models", "verify"]) == 2
    assert f"{weights} is damaged" in capsys.readouterr().out
    assert cli.main(fetch) == 0
    assert cli.main(["models", "verify"]) == 0
    with pytest.raises(InputError, match=r"name a model to fetch: .*nequix-oam-1"):
        cli.main(["models", "fetch"])


def test_models_are_exported_and_compared(tmp_path, monkeypatch, capsys):
    if not WEIGHTS.is_dir():
        pytest.skip("the published nequix files are not on this machine")
    monkeypatch.setenv("BPTT_RELAX_CACHE", str(tmp_path / "cache"))
    assert cli.main(["models", "fetch", "nequix-mp-1", "--source", str(WEIGHTS)]) == 0
    # What either package predicts is measured elsewhere, in minutes.
    numbers = {"one": {"energy": 1.0, "forces": [[0.0] * 3], "stress": [[0.0] * 3] * 3}}
    monkeypatch.setattr(parity, "predictions", lambda potential, params: numbers)
    monkeypatch.setattr(parity, "interpreter", lambda package: None)
    to = tmp_path / "mine.nqx"
    assert cli.main(["models", "export", "nequix-mp-1", str(to)]) == 0
    assert f"{to}: not compared: this Python lacks the original package" in capsys.readouterr().out
    monkeypatch.setattr(parity, "ask", lambda *_: {"package": "nequix 9", "predictions": numbers})
    assert cli.main(["models", "export", "nequix-mp-1", str(to), "--python", "python"]) == 0
    assert f"{to}: nequix 9 agrees to 0e+00 eV" in capsys.readouterr().out
    assert json.loads((tmp_path / "mine.nqx.parity.json").read_text())["parity"]["passed"]
    with pytest.raises(InputError, match="adapt-silicon goes back to no other package"):
        cli.main(["models", "export", "adapt-silicon", str(tmp_path / "a.pt")])


def test_unknown_model_and_missing_path():
    with pytest.raises(InputError, match="chgnet-0.3.0"):
        cli.main(["models", "fetch", "chgnet-9"])
    with pytest.raises(InputError, match="cannot read nowhere"):
        cli.main(["check", "nowhere"])


def test_exit_code_of_the_program():
    command = [sys.executable, "-m", "bptt_relax", "models", "fetch", "chgnet-9"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: no model 'chgnet-9'")


def test_selftest_certifies_stillinger_weber(capsys):
    assert cli.main(["selftest", "--model", "stillinger-weber", "--steps", "4"]) == 0, capsys.readouterr().out
    assert "stillinger-weber: 7 atoms, 4 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [["selftest", "--model", "stillinger-weber"], ["relax", "a.cif", "--out", "a.xyz"]]
)
def test_a_device_that_is_not_here_is_a_sentence(command, tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "bptt_relax", *command],
        env={**os.environ, "JAX_PLATFORMS": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    assert finished.stderr.startswith(
        "error: JAX_PLATFORMS=nonsense asks for a device that JAX has not here (Unable"
    )
    assert finished.stdout == ""


def test_every_command_that_computes_says_where_and_how_precisely(tmp_path, capsys):
    data = datasets.load("silicon-defects").select(["p32_V_s0"])
    io.write_relaxations(tmp_path / "one.extxyz", data)
    cli.main(["check", str(tmp_path / "one.extxyz"), "--model", "stillinger-weber"])
    options = ["--steps", "1", "--model", "stillinger-weber"]
    cli.main(["relax", str(tmp_path / "one.extxyz@0"), "--out", str(tmp_path / "o.extxyz"), *options])
    output = capsys.readouterr()
    assert output.err.count("in double precision (float64)\n") == 2
    assert "precision" not in output.out
