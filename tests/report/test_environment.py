import json
import math
import shutil
import subprocess

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
    assert "/" not in found["command"].replace("tests/", "")
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


def test_peak_memory_is_this_process_and_plausible():
    assert 20 < peak_rss_mb() < 1e6
    held = bytearray(100 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert math.isfinite(peak_rss_mb())


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_copy_inside_another_checkout_has_no_commit(tmp_path, monkeypatch):
    from bptt_relax.report import environment as module_function

    module = __import__(module_function.__module__, fromlist=["_commit"])
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    copy = tmp_path / "site-packages" / "bptt_relax" / "report" / "environment.py"
    copy.parent.mkdir(parents=True)
    copy.write_text("")
    monkeypatch.setattr(module, "__file__", str(copy))
    assert module._commit() is None
