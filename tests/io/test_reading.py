import gzip
import logging
import lzma
import shutil

import numpy as np
import pytest
from ase.db import connect
from ase.io import write

from bptt_relax.io import inspect, largest_forces, read_pair, read_relaxations, write_relaxations
from bptt_relax.outcomes import InputError


def test_round_trip(tmp_path, defects):
    some = defects.select(["p32_pair_Al_P_s0", "p32_bc_O_s0"])
    held = some[0].initial.free.copy()
    held[2] = False
    held[5, 0] = False
    some[0] = some[0]._replace(frames=tuple(f._replace(free=held) for f in some[0].frames))
    write_relaxations(tmp_path / "all.extxyz", some)
    back = read_relaxations(tmp_path / "all.extxyz")
    assert [r.name for r in back] == sorted(r.name for r in some)
    for r in back:
        origin = next(s for s in some if s.name == r.name)
        assert (r.group, r.kind, r.converged) == (origin.group, origin.kind, origin.converged)
        assert len(r.frames) == len(origin.frames)
        for frame, expected in zip(r.frames, origin.frames, strict=True):
            np.testing.assert_allclose(frame.positions, expected.positions, atol=1e-8)
            np.testing.assert_allclose(frame.cell, expected.cell, atol=1e-8)
            np.testing.assert_array_equal(frame.free, expected.free)
        # Raw forces, also on the atoms that are held.
        np.testing.assert_allclose(r.forces, origin.forces, atol=1e-8)
        np.testing.assert_allclose(r.energies, origin.energies, atol=1e-8)
        np.testing.assert_allclose(r.stresses, origin.stresses, atol=1e-8)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_compressed(tmp_path, steps, suffix):
    write(tmp_path / "a.extxyz", steps)
    content = (tmp_path / "a.extxyz").read_bytes()
    (tmp_path / "a.extxyz").unlink()
    (tmp_path / f"a.extxyz{suffix}").write_bytes({".gz": gzip, ".xz": lzma}[suffix].compress(content))
    (r,) = read_relaxations(tmp_path)
    assert r.name == "a"
    assert len(r.frames) == len(steps)


def test_trajectory_and_database(tmp_path, steps):
    write(tmp_path / "run.traj", steps)
    with connect(tmp_path / "many.db") as database:
        for atoms in steps:
            database.write(atoms)
    found = {r.name: r for r in read_relaxations(tmp_path)}
    assert set(found) == {"run", "many"}
    np.testing.assert_allclose(found["run"].forces, found["many"].forces)
    # Both are the same relaxation, so they share a group.
    assert len({r.group for r in found.values()}) == 1


def test_a_folder_of_folders(tmp_path, steps, files):
    for name in ("a/one", "b/one"):
        (tmp_path / name).mkdir(parents=True)
    write(tmp_path / "a/one/initial.xyz", steps[0])
    write(tmp_path / "a/one/relaxed.vasp", steps[-1], sort=False)
    write(tmp_path / "b/one/POSCAR", steps[0])
    write(tmp_path / "b/one/CONTCAR", steps[-1])
    shutil.copy(files / "si2_relax.pwo.xz", tmp_path / "b")
    (tmp_path / "b" / "slurm-17.out").write_text("not from pw.x\n")
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden" / "x.extxyz", steps)
    found = inspect(tmp_path)
    assert not found.rejected
    assert [r.name for r in found.relaxations] == ["a_one", "b_one", "b_si2_relax"]
    assert found.relaxations[1].kind == "AlPSi30"
    assert any("cannot tell whether the target is converged" in note.text for note in found.notes)


def test_read_pair(tmp_path, steps):
    write(tmp_path / "start.vasp", steps[0])
    write(tmp_path / "end.vasp", steps[-1])
    r = read_pair(tmp_path / "start.vasp", tmp_path / "end.vasp")
    assert r.name == "start"
    np.testing.assert_allclose(r.relaxed.positions, steps[-1].positions, atol=1e-6)
    assert r.forces is None
    with pytest.raises(InputError, match="no such file"):
        read_pair(tmp_path / "start.vasp", tmp_path / "no.vasp")


def test_espresso(files):
    relax, vcrelax = (read_relaxations(files / f"si2_{name}.pwo.xz")[0] for name in ("relax", "vcrelax"))
    assert relax.converged
    assert len(relax.frames) == 7
    # pw.x doesn't repeat what it holds in its summary, only behind the positions.
    np.testing.assert_array_equal(relax.initial.free, [[False] * 3, [True] * 3])
    # The end is computed again in a new plane-wave basis, on another energy surface: not a step.
    assert len(vcrelax.frames) == 8
    assert not np.allclose(vcrelax.initial.cell, vcrelax.relaxed.cell)
    assert vcrelax.energies[-1] == pytest.approx(-15.7230290680 * 13.605693, abs=1e-4)


def test_vasp(vasp_folder):
    found = inspect(vasp_folder)
    assert not found.rejected
    by_name = {r.name: r for r in found.relaxations}
    assert {name: len(r.frames) for name, r in by_name.items()} == {
        "Cu2SiSe3_Si_i": 3,
        "GaN_Mg_Ga_q0": 5,
        "GaN_v_N_q0": 8,
        "SrTiO3_vac_O_0": 4,
    }
    assert all(r.converged and r.fmax < 0.05 for r in by_name.values())
    np.testing.assert_allclose(
        largest_forces(by_name["GaN_Mg_Ga_q0"]), [1.81, 0.39, 0.25, 0.084, 0.042], atol=5e-3
    )
    # The energy that the forces belong to, not its extrapolation to zero smearing.
    assert by_name["GaN_Mg_Ga_q0"].energies[-1] == pytest.approx(-206.95933711)


def test_vasp_outcar_and_poscar_contcar_agree(vasp_folder, tmp_path):
    folder = vasp_folder / "GaN_Mg_Ga_q0"
    for name in ("POSCAR", "CONTCAR"):
        shutil.copy(folder / f"{name}.gz", tmp_path)
    (pair,) = read_relaxations(tmp_path)
    (full,) = read_relaxations(folder)
    moved = [r.relaxed.positions - r.initial.positions for r in (pair, full)]
    np.testing.assert_allclose(moved[0], moved[1], atol=2e-5)


def test_selective_dynamics_beside_an_outcar(vasp_folder, tmp_path):
    folder = vasp_folder / "GaN_Mg_Ga_q0"
    shutil.copy(folder / "OUTCAR.gz", tmp_path)
    lines = gzip.decompress((folder / "POSCAR.gz").read_bytes()).decode().splitlines()
    lines[7:] = [
        "Selective",
        "direct",
        *(" ".join([*x.split()[:3], *"FFF"]) for x in lines[8:10]),
        *(" ".join([*x.split()[:3], *"TTT"]) for x in lines[10:40]),
    ]
    (tmp_path / "POSCAR").write_text("\n".join(lines) + "\n")
    (r,) = read_relaxations(tmp_path)
    assert not r.initial.free[:2].any()
    assert r.initial.free[2:].all()
    assert np.abs(r.forces[:, 0]).max() > 0


def test_positions_are_followed_across_boundaries(tmp_path, steps):
    for t, atoms in enumerate(steps):
        atoms.positions += [0.05 * t, 0.0, 0.0]  # a drift that carries atoms through the boundary
        atoms.wrap()
    write(tmp_path / "a.extxyz", steps)
    found = inspect(tmp_path)
    (r,) = found.relaxations
    jumps = np.diff(np.stack([f.positions for f in r.frames]), axis=0)
    assert np.abs(jumps).max() < 0.5
    assert any("crossed a periodic boundary" in note.text for note in found.notes)
    assert any("drift" in note.text for note in found.notes)


def test_start_below(tmp_path, defects):
    r = defects.select(["p32_split110_B_s0"])[0]
    write_relaxations(tmp_path / "a.extxyz", [r])
    (whole,) = read_relaxations(tmp_path, start_below=None)
    assert whole.start == 0
    found = inspect(tmp_path, start_below=None)
    assert any("repulsive wall" in note.text for note in found.notes)
    (gentle,) = read_relaxations(tmp_path)
    assert gentle.start == r.start == 1
    with pytest.raises(InputError, match="no step before the last"):
        read_relaxations(tmp_path, start_below=1e-3)


def test_skip_bad_keeps_the_good_and_writes_the_reasons(tmp_path, steps, caplog):
    write(tmp_path / "good.extxyz", steps)
    write(tmp_path / "bad.extxyz", steps[:3])
    with pytest.raises(InputError, match="not converged: final fmax"):
        read_relaxations(tmp_path)
    with caplog.at_level(logging.WARNING):
        (r,) = read_relaxations(tmp_path, skip_bad=True, rejected_to=tmp_path / "rejected.csv")
    assert r.name == "good"
    assert "left out" in caplog.text
    header, row = (tmp_path / "rejected.csv").read_text().splitlines()
    assert header == "source,relaxation,reason,fix"
    assert "bad" in row
    assert "not converged" in row
    with pytest.raises(InputError, match="no usable relaxation"):
        read_relaxations(tmp_path / "bad.extxyz", skip_bad=True)
    assert len(read_relaxations(tmp_path, allow_unconverged=True)) == 2


def test_progress_is_reported(tmp_path, steps):
    for name in "ab":
        write(tmp_path / f"{name}.extxyz", steps)
    told = []
    inspect(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_copies_are_left_out_and_parts_of_one_relaxation_share_a_group(tmp_path, steps):
    for atoms in steps:
        atoms.info["job"] = "same"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "x.extxyz", steps)
    found = inspect(tmp_path)
    assert [r.name for r in found.relaxations] == ["same"]
    assert any("a copy of same" in note.text for note in found.notes)
    # A set that someone split by frames: two files, one relaxation.
    write(tmp_path / "a" / "x.extxyz", steps[::2])
    write(tmp_path / "b" / "x.extxyz", [*steps[1::2], steps[-1]])
    found = inspect(tmp_path)
    assert [r.name for r in found.relaxations] == ["same", "same-2"]
    assert {r.group for r in found.relaxations} == {"same"}
