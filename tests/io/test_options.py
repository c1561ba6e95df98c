"""One set of options for Python, ``check`` and ``finetune``; hints name them as their reader has to write them."""

import ast
import re
from pathlib import Path

import pytest
import tyro

import bptt_relax
from bptt_relax import cli
from bptt_relax.finetuning.own_data import SPELLING as OF_FINETUNE
from bptt_relax.finetuning.settings import OwnDataSettings
from bptt_relax.io import Problem, ReadOptions
from bptt_relax.io.options import in_python, on_command_line, spell, use
from bptt_relax.io.problems import summarize

PACKAGE = Path(bptt_relax.__file__).parent
VALUES = {
    "fmax": "0.1",
    "smax": "2",
    "pressure": "5",
    "start_below": "7",
    "max_displacement": "4",
    "pbc": "True",
}


def test_the_same_options_everywhere():
    assert OwnDataSettings().reading == ReadOptions()
    assert ReadOptions().changed(fmax=0.1, forces_key="f") == ReadOptions(fmax=0.1, forces_key="f")
    with pytest.raises(ValueError, match="forces_keys"):
        ReadOptions().changed(forces_keys="f")
    with pytest.raises(ValueError, match="fmax"):
        ReadOptions(fmax=-1)


@pytest.mark.parametrize("name", list(ReadOptions.model_fields))
def test_every_option_is_written_as_the_commands_take_it(name):
    value = VALUES.get(name, "some_key" if name.endswith("_key") else None)
    options = spell(use(name, value), on_command_line()).split()
    checked = tyro.cli(cli.Check, args=["data", *options]).reading
    tuned = tyro.cli(cli.Finetune, args=["data", *spell(use(name, value), OF_FINETUNE).split()]).reading
    given = spell(use(name, value), in_python)
    python = ReadOptions(**eval(f"dict({given})"))
    if name == "relax_cell":  # no hint proposes what is so anyway
        assert checked == tuned == python == ReadOptions()
    else:
        assert checked == tuned == python != ReadOptions()


def _hints() -> set[str]:
    """Names in calls of `use` in the package."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "use" and node.args:
                name = node.args[0]
                # use(f"{kind}_key", ...) stands for several.
                found.add(name.value if isinstance(name, ast.Constant) else "*")
    return found


def test_every_hint_about_reading_names_an_option():
    hints = _hints()
    assert {"skip_bad", "allow_unconverged", "reorder", "in_relaxed_cell", "pressure", "smax", "*"} <= hints
    assert hints - {"*"} <= set(ReadOptions.model_fields)
    with pytest.raises(ValueError, match="forces_keys is no option"):
        use("forces_keys")


def test_no_hint_of_reading_is_written_for_one_reader_only():
    """Options stand in messages of the reader by `use` alone."""
    names = "|".join(ReadOptions.model_fields)
    for path in (PACKAGE / "io").rglob("*.py"):
        if path.name in ("options.py", "structures.py"):  # the latter for `relax` alone
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            is_docstring = "\n" in node.value
            assert is_docstring or not re.search(rf"--[a-z]|\b({names})=", node.value), (
                path.name,
                node.value,
            )


def _options_of_commands() -> set[str]:
    text = (PACKAGE / "cli.py").read_text()
    commands = re.findall(r'subcommand\("(\w+)"\)', text)
    found = set()
    for command in commands:
        for action in ([], ["list"], ["fetch"], ["verify"], ["export"]) if command == "models" else ([],):
            found |= _help([command, *action])
    return found


def _help(arguments) -> set[str]:
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        cli.main([*arguments, "--help"])
    return set(re.findall(r"--[a-z][\w.-]*", said.getvalue()))


def test_every_option_that_a_message_names_exists_in_a_command():
    known = _options_of_commands()
    assert {"--reading.skip-bad", "--forces-key", "--skip-bad", "--model"} <= known
    # Programs of their own have others, and programs that are called.
    elsewhere = ("experiments", "datasets", "report")
    missing = {}
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in elsewhere:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            # A sentence; a word of its own is an argument of some other program.
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                for option in re.findall(r"(?<![\w-])--[a-z][a-z.-]*[a-z]", node.value):
                    if option not in known | {"--help", "--no-deps"}:
                        missing.setdefault(option, path.relative_to(PACKAGE).as_posix())
    assert not missing


def test_values_from_files_stay_values():
    """A key may be called anything."""
    hint = use("forces_key", "a{skip_bad}b")
    assert spell(hint, in_python) == "forces_key='a(skip_bad)b'"
    assert spell("{x} {skip_bad}", on_command_line()) == "{x} --skip-bad"


def test_what_is_the_same_for_many_is_said_once():
    notes = [Problem(f"{k}.extxyz", f"{k}", "the same", f"set {use('fmax')}", False) for k in range(9)]
    other = Problem("z.extxyz", "z", "something else", fatal=False)
    assert summarize([*notes, other], on_command_line()) == [
        "0.extxyz, 1.extxyz, 2.extxyz and 6 others: the same -> set --fmax",
        "z.extxyz: something else",
    ]
