import importlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from bptt_relax.report import environment as report_environment
from bptt_relax.report import peak_rss_mb
from bptt_relax.report.environment import command_line


def test_everything_that_may_change_a_number_is_there():
    found = report_environment()
    assert {"python", "platform", "cpu_count", "packages", "device", "precision", "commit", "command"} <= set(
        found
    )
    assert found["packages"]["jax"]
    assert found["device"]["backend"] == "cpu"
    assert found["precision"]["floats"] == "float64"
    assert not any(part.startswith(("/", "~")) for part in found["command"].split())
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            [
                "/some/where/python",
                "-m",
                "bptt_relax.experiments.silicon",
                "--out",
                "/data/me/run1",
                "--seed",
                "3",
            ],
            "python -m bptt_relax.experiments.silicon --out run1 --seed 3",
        ),
        (["python", "--out=/data/me/run1/", "~/x", "runs/a"], "python --out=run1 x runs/a"),
        (["C:\\Python\\python.exe", "--config", "\\\\host\\share\\c.toml"], "python.exe --config c.toml"),
    ],
)
def test_the_command_names_no_absolute_path(arguments, text):
    assert command_line(arguments) == text


def test_peak_memory_is_in_megabytes_wherever_it_comes_from(monkeypatch):
    first = peak_rss_mb()
    assert 20 < first < 1e6

    def no_proc(*_, **__):
        raise OSError

    monkeypatch.setattr(Path, "read_text", no_proc)
    assert 0.5 * first < peak_rss_mb() < 1e6


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_copy_inside_another_checkout_has_no_commit(tmp_path, monkeypatch):
    module = importlib.import_module("bptt_relax.report.environment")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    copy = tmp_path / "site-packages" / "bptt_relax" / "report" / "environment.py"
    copy.parent.mkdir(parents=True)
    copy.write_text("")
    monkeypatch.setattr(module, "__file__", str(copy))
    assert module._commit() is None
