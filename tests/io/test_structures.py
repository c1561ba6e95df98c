"""Structures found in files and folders, named and checked."""

import gzip
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from bptt_relax.io import inspect_structures


@pytest.fixture
def silicon() -> Atoms:
    return bulk("Si", a=5.5)


def names(inspection) -> list[str]:
    return [found.structure.name for found in inspection.found]


def test_folders_give_every_structure_a_name_of_its_own(tmp_path, silicon):
    for folder in ("a", "a/deep", "b", ".hidden"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "POSCAR", silicon)
        write(tmp_path / folder / "CONTCAR", silicon)
    write(tmp_path / "b" / "set.extxyz", [silicon, silicon])
    write(tmp_path / "set.cif", silicon)
    (tmp_path / "slurm.out").write_text("nothing")
    (tmp_path / "notes.txt").write_text("nothing")
    with gzip.open(tmp_path / "packed.xyz.gz", "wt") as file:
        write(file, silicon, format="extxyz")
    found = inspect_structures([tmp_path, tmp_path / "set.cif"])
    assert found.rejected == []
    assert names(found) == ["packed", "set", "a", "a_deep", "b", "b_set-0", "b_set-1", "set-2"]
    assert {one.source for one in found.found if one.structure.name == "a"} == {
        str(tmp_path / "a" / "POSCAR")
    }


@pytest.mark.parametrize(
    ("index", "wanted"), [("@-1", ["set"]), ("@1:", ["set-1", "set-2"]), ("", ["set-0", "set-1", "set-2"])]
)
def test_an_index_picks_as_in_ase(tmp_path, silicon, index, wanted):
    write(tmp_path / "set.traj", [silicon] * 3)
    assert names(inspect_structures([f"{tmp_path / 'set.traj'}{index}"])) == wanted


def test_an_index_that_is_not_there(tmp_path, silicon):
    write(tmp_path / "set.traj", [silicon] * 3)
    for index in ("@3", "@-4", "@7:"):
        found = inspect_structures([f"{tmp_path / 'set.traj'}{index}"])
        assert found.found == []
        assert "has" not in found.rejected[0].source
        assert "3 structures, none at" in found.rejected[0].text


def test_of_an_output_the_last_step_is_taken(files):
    path = sorted(files.glob("*.pwo*"))[0]
    (one,) = inspect_structures([path]).found
    (first,) = inspect_structures([f"{path}@0"]).found
    assert one.structure.name == first.structure.name
    assert not np.allclose(one.structure.positions, first.structure.positions)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: a.set_cell(np.zeros((3, 3))), "cell is not finite or has no volume although pbc is TTT"),
        (lambda a: a.set_atomic_numbers([14, 0]), r"atom 1 is a dummy \(X\)"),
        (lambda a: a.set_atomic_numbers([14, 94]), "does not cover Pu; it covers 1 element"),
        (lambda a: a.set_pbc(False), "pbc is FFF but a cell is given"),
        (lambda a: a.info.update(occupancy={"0": {"Si": 0.5, "Ge": 0.5}}), "partly occupied"),
    ],
)
def test_what_can_not_be_relaxed(tmp_path, silicon, change, text):
    change(silicon)
    write(tmp_path / "bad.traj", silicon)
    found = inspect_structures([tmp_path / "bad.traj"], elements=(14,))
    assert found.found == []
    (problem,) = found.rejected
    assert (problem.name, problem.source) == ("bad", str(tmp_path / "bad.traj"))
    assert re.search(text, problem.text)


def test_what_is_unusual_is_noted(tmp_path, silicon):
    silicon.positions[1] *= 0.63
    write(tmp_path / "close.traj", silicon)
    found = inspect_structures([tmp_path / "close.traj"])
    assert names(found) == ["close"]
    assert "overlap" in found.notes[0].text
