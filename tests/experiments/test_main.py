import json
import subprocess
import sys
from pathlib import Path

import pytest

from bptt_relax.experiments import _main
from bptt_relax.experiments.silicon.config import PRESETS, SiliconConfig
from bptt_relax.outcomes import InputError, ModelError, RelaxationError, run_program


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["silicon", *arguments])
    return _main.parse(SiliconConfig, PRESETS, "quick", "silicon", "description")


def test_presets_and_overrides(monkeypatch):
    assert parse(monkeypatch) == PRESETS["quick"]
    assert parse(monkeypatch, "--preset", "full") == PRESETS["full"]
    config = parse(monkeypatch, "--preset=smoke", "--bptt.learning-rate", "1e-3", "--seed", "7")
    assert (config.bptt.learning_rate, config.seed) == (1e-3, 7)
    assert config.relaxation == PRESETS["smoke"].relaxation


def test_settings_from_a_file(monkeypatch, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('model = "chgnet-0.2.0"\n[bptt]\nepochs = 3\n')
    config = parse(monkeypatch, "--config", str(file), "--bptt.clip", "2.0")
    assert (config.model, config.bptt.epochs, config.bptt.clip) == ("chgnet-0.2.0", 3, 2.0)
    assert config.bptt.learning_rate == PRESETS["quick"].bptt.learning_rate


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "no preset 'huge'; there are smoke, quick, full"),
        (["--preset"], "--preset needs a value"),
        (["--config", "absent.toml"], "cannot read --config absent.toml"),
    ],
)
def test_impossible_settings_are_named(monkeypatch, arguments, message):
    with pytest.raises(InputError, match=message):
        parse(monkeypatch, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bptt.from-initial", "0.9"], "add up to more than 1"),
        (["--relaxation.step-size", "-1"], "greater than 0"),
        (["--bptt.epoch", "3"], "Unrecognized options: --bptt.epoch"),
    ],
)
def test_impossible_options_are_named(monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        parse(monkeypatch, *arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_misspelled_settings_in_a_file_are_named(monkeypatch, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[bptt]\nepoch = 3\n")
    with pytest.raises(InputError, match=r"bptt\.epoch: Extra inputs"):
        parse(monkeypatch, "--config", str(file))


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("no"), 2), (ModelError("no"), 3), (RelaxationError("no"), 4), (MemoryError("no"), 5)],
)
def test_failures_are_one_sentence_and_an_exit_code(error, code, capsys, monkeypatch):
    # Another test may have left threads of a compiler, for which a program that failed does not wait.
    monkeypatch.setattr("bptt_relax.outcomes.threading.enumerate", list)

    def main():
        raise error

    with pytest.raises(SystemExit) as exit_info:
        run_program(main)
    assert exit_info.value.code == code
    assert capsys.readouterr().err == "error: no\n"


def test_help_is_fast_and_imports_no_jax():
    program = (
        "import sys, runpy; sys.argv = ['silicon', '--help']\n"
        "try: runpy.run_module('bptt_relax.experiments.silicon', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'jax', 'jax_md', 'flax'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("[]\n")
    assert "--bptt.learning-rate" in finished.stdout


@pytest.mark.parametrize(("file", "preset"), [("full.toml", "full"), ("smoke.toml", "smoke")])
def test_the_files_people_edit_are_the_presets(monkeypatch, file, preset):
    path = Path(__file__).parents[2] / "experiments" / "silicon" / file
    config = parse(monkeypatch, "--config", str(path))
    assert config.resolved() | {"preset": preset} == PRESETS[preset].resolved()


def test_the_published_configuration_is_that_of_the_published_results(monkeypatch):
    """What has become a setting since had a value then, and the file says which."""
    folder = Path(__file__).parents[2] / "experiments" / "silicon"
    config = parse(monkeypatch, "--config", str(folder / "config.toml")).resolved()
    published = json.loads((folder / "results.json").read_text())["config"]

    def agree(now, then):
        return {
            key: agree(now[key], value) if isinstance(value, dict) else now[key] == value
            for key, value in then.items()
            if key not in ("preset", "memory_budget")
        }

    assert "False" not in str(agree(config, published))
    assert config["bptt"]["batch_size"] == 1
