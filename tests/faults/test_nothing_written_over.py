"""Nothing is written over, and nothing that a file is called reaches a terminal or a table as it is."""

import csv
import io
import subprocess
import sys

import pytest
from ase.io import write
from rich.console import Console

from bptt_relax import cli, datasets
from bptt_relax.io import Problem, read_relaxations, to_atoms, write_rejected, write_relaxations
from bptt_relax.outcomes import InputError, printable
from bptt_relax.report import Reporter
from bptt_relax.report.tables import Grid, escape, print_grids

ESCAPE = "\x1b[31mred\x1b]0;title\x07"


@pytest.fixture(scope="module")
def relaxation():
    return datasets.load("silicon-defects").select(["p32_pair_Al_P_s0"])[0]


@pytest.fixture
def bad(tmp_path, relaxation):
    """A file that check refuses."""
    write(tmp_path / "bad.extxyz", [to_atoms(relaxation.initial)])
    return tmp_path / "bad.extxyz"


@pytest.mark.parametrize("name", ["bad.extxyz", "other.txt", "link", "to-nowhere"])
def test_check_writes_over_nothing_not_even_what_it_reads(tmp_path, bad, name):
    (tmp_path / "other.txt").write_text("mine")
    (tmp_path / "link").symlink_to(bad)
    (tmp_path / "to-nowhere").symlink_to(tmp_path / "absent")
    before = bad.read_bytes()
    with pytest.raises(InputError, match="exists, and nothing is written over"):
        cli.main(["check", str(bad), "--rejected-to", str(tmp_path / name)])
    assert bad.read_bytes() == before
    assert (tmp_path / "other.txt").read_text() == "mine"
    assert not (tmp_path / "absent").exists()
    assert cli.main(["check", str(bad), "--rejected-to", str(tmp_path / "new.csv")]) == 2
    assert "has no relaxed partner" in (tmp_path / "new.csv").read_text()


def test_neither_does_reading_nor_writing(tmp_path, bad, relaxation):
    with pytest.raises(InputError, match="nothing is written over"):
        read_relaxations(tmp_path, skip_bad=True, rejected_to=bad)
    with pytest.raises(InputError, match="nothing is written over"):
        write_rejected(bad, [])
    with pytest.raises(InputError, match="nothing is written over"):
        write_relaxations(bad, [relaxation])
    write_relaxations(bad, [relaxation], replace=True)
    assert len(read_relaxations(bad)) == 1
    with pytest.raises(InputError, match="cannot write"):
        write_rejected(tmp_path / "absent" / "a.csv", [])


def test_escape_sequences_reach_neither_terminal_nor_table(tmp_path, relaxation):
    folder = tmp_path / "data"
    folder.mkdir()
    name = f"{ESCAPE}\u202ereversed"
    frames = [to_atoms(relaxation.initial)]
    frames[0].arrays[f"f{ESCAPE}"] = frames[0].positions.copy()
    write(folder / f"{name}.traj", frames)
    (folder / "=1+1.extxyz").write_text("x\n")
    (folder / "line\nbreak.extxyz").write_text("x\n")
    command = [
        sys.executable,
        "-m",
        "bptt_relax",
        "check",
        str(folder),
        "--rejected-to",
        str(tmp_path / "r.csv"),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert finished.returncode == 2
    for text in (finished.stdout, finished.stderr):
        assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b[31mred" in finished.stderr
    assert len(finished.stderr.splitlines()) == 3
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 4
    assert all(cell.isprintable() for row in rows for cell in row)
    # The last resort of every command.
    command[4:] = [str(tmp_path / f"no{ESCAPE}")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert finished.stderr.strip().isprintable()
    assert "no such file" in finished.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_nor_do_they_by_way_of_progress_and_results(terminal):
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, no_color=True, width=100, color_system=None)
    with Reporter(console, plain=not terminal) as reporter:
        reporter.note(f"note {ESCAPE}")
        reporter.begin(f"phase {ESCAPE}")
        reporter.advance(structure=f"one {ESCAPE}")
        reporter.event({"event": "skip", "structure": f"two {ESCAPE}", "reason": "none"})
    print_grids(
        [Grid(f"title {ESCAPE}", (f"a {ESCAPE}", "b"), (((ESCAPE, False), ("c", True)),), (ESCAPE,))], console
    )
    shown = written.getvalue()
    assert shown.count("\\x1b[31mred") >= 7
    assert "\x1b[31m" not in shown
    assert "\x1b]0" not in shown
    assert "\x07" not in shown
    assert "\x1b" not in escape(ESCAPE)


def test_printable():
    assert printable("ok\n\tü 中") == "ok\n\tü 中"
    assert printable("\x1b\x07\u202e\udcff") == "\\x1b\\x07\\u202e\\udcff"
    problem = Problem(f"a{ESCAPE}", "b", "c\nd")
    assert str(problem).isprintable()
