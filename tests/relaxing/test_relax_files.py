"""Structures of files, relaxed into one file."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixBondLength
from ase.io import read, write

from bptt_relax import cli
from bptt_relax.outcomes import InputError, Interrupted, RelaxationError
from bptt_relax.relaxing.run import summary
from bptt_relax.relaxing.settings import RelaxSettings


def test_everything_in_a_folder(folder, tmp_path, silicon, relax):
    endings, said = relax(folder)
    assert endings == dict.fromkeys(("two-0", "two-1", "vasp"), "converged")
    assert "3 structures in 1 bucket: 3 of up to 8 atoms and " in said
    assert summary(endings) == "3 structures: 3 converged"
    found = read(tmp_path / "out.extxyz", ":")
    assert [atoms.info["name"] for atoms in found] == ["two-0", "two-1", "vasp"]
    for atoms, start in zip(found, silicon, strict=True):
        assert atoms.info["converged"]
        assert atoms.info["outcome"] == "converged"
        assert atoms.info["fmax"] < 0.01
        assert atoms.info["steps"] > 0
        assert atoms.info["model"] == "stillinger-weber"
        assert atoms.get_potential_energy() < -4.2 * len(atoms)
        np.testing.assert_allclose(atoms.cell.array, start.cell.array, atol=1e-8)
        assert np.abs(atoms.positions - start.positions).max() > 0.005
    kept = found[1]
    assert np.abs(kept.positions[0] - silicon[1].positions[0]).max() < 1e-7, "a fixed atom"
    assert kept.constraints
    assert kept.get_tags().tolist() == [7, 0, 0, 0]
    assert kept.info["origin"] == "a test"
    assert "REF_energy" not in kept.info, "a label of the start"
    assert "REF_forces" not in kept.arrays
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.extxyz", "structures"]


@pytest.mark.parametrize(
    ("cell", "shape", "volume"),
    [
        ("free", True, True),
        ("hydrostatic", False, True),
        ("fixed-volume", True, False),
        ("110000", True, True),
    ],
)
def test_cells(folder, tmp_path, silicon, relax, cell, shape, volume):
    relax(f"{folder / 'two.extxyz'}@0", cell=cell, smax=0.05, trajectory=tmp_path / "paths")
    atoms, start = read(tmp_path / "out.extxyz"), silicon[0]
    assert atoms.info["converged"]
    assert atoms.info["smax_GPa"] < 0.05
    F = np.linalg.solve(start.cell.array, atoms.cell.array)
    scale = abs(np.linalg.det(F)) ** (1 / 3)
    assert (np.abs(F / scale - np.eye(3)).max() > 1e-4) == shape
    assert (abs(scale - 1) > 1e-4) == volume
    if cell == "110000":
        assert np.abs(F - np.diag(np.diag(F))).max() < 1e-6
        assert abs(F[2, 2] - 1) < 1e-6
    path = read(tmp_path / "paths" / "two.extxyz", ":")
    assert len(path) == atoms.info["steps"] + 1
    assert path[0].cell.array == pytest.approx(start.cell.array, abs=1e-6)
    assert path[-1].cell.array == pytest.approx(atoms.cell.array, abs=1e-6)
    energies = [step.get_potential_energy() for step in path]
    assert energies[-1] == pytest.approx(atoms.get_potential_energy())
    assert energies[0] > energies[-1]


def test_momentum_and_steps_that_run_out(folder, tmp_path, relax):
    endings, said = relax(f"{folder / 'two.extxyz'}@:1", rule="momentum", steps=3)
    assert "warning: two-0: steps ran out" in said
    assert summary(endings) == "1 structure: 1 steps ran out"
    atoms = read(tmp_path / "out.extxyz")
    assert (atoms.info["converged"], atoms.info["steps"]) == (False, 3)


def test_a_molecule_keeps_its_empty_cell(tmp_path, relax):
    write(tmp_path / "dimer.xyz", Atoms("Si2", [[0, 0, 0], [0, 0, 2.5]]))
    relax(tmp_path / "dimer.xyz")
    atoms = read(tmp_path / "out.extxyz")
    assert not atoms.cell.array.any()
    assert not atoms.pbc.any()
    assert atoms.get_distance(0, 1) == pytest.approx(2.351, abs=0.01)


# What is refused.


def test_everything_wrong_is_said_at_once_and_nothing_is_written(folder, tmp_path, silicon, relax):
    bonded = silicon[0].copy()
    bonded.set_constraint(FixBondLength(0, 1))
    overlapping = silicon[0].copy()
    overlapping.positions[1] = overlapping.positions[0] + 0.1
    broken = silicon[0].copy()
    broken.positions[1, 2] = np.nan
    write(folder / "bad.traj", [bonded, overlapping, broken, Atoms("SiGe", [[0, 0, 0], [0, 0, 2.4]])])
    (folder / "empty.cif").touch()
    (tmp_path / "out.extxyz").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as raised:
        relax(folder, tmp_path / "missing.xyz", tmp_path / "structures@x")
    text = str(raised.value)
    assert text.startswith("nothing relaxed, nothing written (8 problems):")
    for part in (
        "out.extxyz: exists and is never written over",
        "bad-0: constraint FixBondLengths can't be kept",
        "bad-1: atoms 0 and 1 overlap",
        "bad-2: position of atom 1 is NaN",
        "bad-3: the model does not cover Ge; it covers 1 element",
        "empty.cif: is empty",
        "missing.xyz: no such file or folder",
        "structures@x: what follows the @ is no index",
        "--skip-bad",
    ):
        assert part in text
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "out.extxyz").read_text() == "precious"


def test_bad_structures_are_left_out_with_their_reasons(folder, tmp_path, relax):
    write(folder / "ge.xyz", Atoms("Ge2", [[0, 0, 0], [0, 0, 2.4]]))
    _, said = relax(folder, skip_bad=True)
    assert f"left out, reasons in {tmp_path / 'rejected.csv'}: ge" in said
    assert len(read(tmp_path / "out.extxyz", ":")) == 3
    (row,) = csv.DictReader((tmp_path / "rejected.csv").read_text().splitlines())
    assert row["relaxation"] == "ge"
    assert "does not cover Ge" in row["reason"]
    with pytest.raises(InputError, match=r"rejected.csv: exists and is never written over"):
        relax(folder, skip_bad=True, out=tmp_path / "other.extxyz")


def test_nothing_but_bad_structures(tmp_path, relax):
    write(tmp_path / "ge.xyz", Atoms("Ge"))
    with pytest.raises(InputError, match="does not cover Ge"):
        relax(tmp_path / "ge.xyz", skip_bad=True)
    with pytest.raises(InputError, match="no files given"):
        relax()
    with pytest.raises(InputError, match="no structures in this folder"):
        relax(tmp_path.joinpath("none").mkdir() or tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ge.xyz", "none"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"out": "relaxed.cif"}, "the result is extended XYZ"),
        ({"resume": True}, "was never started: nothing to resume"),
        ({"trajectory": "structures"}, "is a file, or not empty"),
    ],
)
def test_places_that_can_not_be_written(folder, tmp_path, relax, change, text):
    paths = {key: tmp_path / value if isinstance(value, str) else value for key, value in change.items()}
    with pytest.raises(InputError, match=text):
        relax(folder, **paths)


@pytest.mark.parametrize("cell", ["loose", "000000", "11000", "1100001"])
def test_cells_that_mean_nothing(cell):
    with pytest.raises(ValueError, match="six digits 0 or 1"):
        RelaxSettings(out=Path("out.extxyz"), cell=cell)


def test_a_relaxation_that_fails_is_written_and_named(tmp_path, silicon, relax, monkeypatch):
    # So close that a power of their distance overflows, and checks that let it pass.
    silicon[0].positions[:] = [[0.0, 0.0, 0.0], [1e-90, 0.0, 0.0]]
    write(tmp_path / "all.traj", silicon[:2])
    monkeypatch.setattr("bptt_relax.io.structures.geometry.pairs_within", lambda *_: (np.zeros(0, int),) * 3)
    with pytest.raises(RelaxationError, match=r"1 of 2 relaxations failed: all-0 \(forces not finite\)"):
        relax(tmp_path / "all.traj")
    bad, good = read(tmp_path / "out.extxyz", ":")
    assert (bad.info["outcome"], bad.calc, bad.info["converged"]) == ("forces not finite", None, False)
    assert good.info["converged"]


# Interrupted and resumed.


def test_an_interrupted_run_goes_on_where_it_was(folder, tmp_path, relax, monkeypatch):
    relax(folder, out=tmp_path / "whole.extxyz")
    whole = (tmp_path / "whole.extxyz").read_text()
    out = tmp_path / "out.extxyz"

    from bptt_relax.relaxing.output import Output

    append = Output.append

    def append_and_stop(self, name, frame):
        append(self, name, frame)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Output, "append", append_and_stop)
    with pytest.raises(Interrupted, match="1 of 3 structures are in .* and --resume") as stopped:
        relax(folder)
    assert stopped.value.signal == signal.SIGTERM
    monkeypatch.undo()
    assert len(read(out, ":")) == 1
    with pytest.raises(InputError, match="was interrupted -> go on with --resume"):
        relax(folder)
    with pytest.raises(InputError, match="fmax: 0.01 -> 0.02"):
        relax(folder, resume=True, fmax=0.02)
    # As a process that is killed while it writes leaves it.
    out.write_text(out.read_text() + '4\nLattice="1 0 0 0 1 0 0 0 1" name=two-1\nSi 0.0 0.')
    _, said = relax(folder, resume=True)
    assert "1 of 3 structures are relaxed already" in said
    assert out.read_text() == whole
    with pytest.raises(InputError, match="is complete: nothing to resume"):
        relax(folder, resume=True)


def test_other_structures_are_not_resumed(folder, tmp_path, silicon, relax, monkeypatch):
    monkeypatch.setattr("bptt_relax.relaxing.run._relax", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted) as stopped:
        relax(folder)
    assert stopped.value.signal == signal.SIGINT
    monkeypatch.undo()
    write(folder / "two.extxyz", silicon[1:])
    with pytest.raises(InputError, match="was started otherwise"):
        relax(folder, resume=True)


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_was_finished(folder, tmp_path):
    out = tmp_path / "out.extxyz"
    command = [sys.executable, "-m", "bptt_relax", "relax", str(folder), "--model", "stillinger-weber"]
    command += ["--out", str(out), "--fmax", "0.01", "--workers", "1"]
    environment = os.environ | {"BPTT_RELAX_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (out.exists() and out.stat().st_size) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    finished = subprocess.run(
        [*command, "--resume"], env=environment, capture_output=True, text=True, check=False
    )
    if "nothing to resume" not in finished.stderr:  # it was quicker than the kill
        assert finished.returncode == 0, finished.stderr
    assert [atoms.info["name"] for atoms in read(out, ":")] == ["two-0", "two-1", "vasp"]


def test_the_command_parses_what_it_passes_on(monkeypatch, capsys):
    told = {}
    monkeypatch.setattr(
        "bptt_relax.relaxing.run.run",
        lambda paths, settings: told.update(paths=paths, settings=settings) or {"a": "converged"},
    )
    assert cli.main(["relax", "a.cif", "b@-1", "--out", "o.xyz", "--cell", "110001", "--skip-bad"]) == 0
    assert capsys.readouterr().out == "1 structure: 1 converged; written to o.xyz\n"
    assert told["paths"] == (Path("a.cif"), Path("b@-1"))
    assert told["settings"].cell == "110001"
    assert told["settings"].skip_bad
    with pytest.raises(SystemExit) as left:
        cli.main(["relax", "a.cif", "--out", "o.xyz", "--fmax", "-1"])
    assert left.value.code == 2
