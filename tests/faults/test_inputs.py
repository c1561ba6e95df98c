"""Bad inputs, one test per row of the catalogue: refused before anything is computed, all at once, with the way out.

Every message names the file, the structure and, where one is at fault, the atom.
"""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write

from bptt_relax import datasets
from bptt_relax.io import inspect, read_pair, read_pairs, read_relaxations, to_atoms
from bptt_relax.io import records as reading_of_files
from bptt_relax.neighbors import GraphSpec
from bptt_relax.outcomes import InputError

ESPRESSO = Path(__file__).parents[1] / "io" / "files"


@pytest.fixture(scope="module")
def relaxation():
    return datasets.load("silicon-defects").select(["p32_pair_Al_P_s0"])[0]


@pytest.fixture
def steps(relaxation) -> list[Atoms]:
    r = relaxation
    return [
        to_atoms(f, energy=float(e), forces=g.copy())
        for f, e, g in zip(r.frames, r.energies, r.forces, strict=True)
    ]


@pytest.fixture
def vasp_folder() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "vasp"
    if not folder.is_dir():
        pytest.skip("the public VASP relaxations (../shared/data/vasp) are not here")
    return folder


def refusal(path: Path, **options) -> str:
    """The message of a refusal; nothing may have been written meanwhile."""
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in path.parent.rglob("*")}
    with pytest.raises(InputError) as caught:
        read_relaxations(path, **options)
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in path.parent.rglob("*")}
    return str(caught.value)


def notes(path: Path, **options) -> str:
    found = inspect(path, **options)
    assert not found.rejected
    return "\n".join(map(str, found.notes))


def save(folder: Path, frames: list[Atoms], name: str = "a.extxyz") -> Path:
    write(folder / name, frames)
    return folder / name


def unlabelled(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = None
    return atoms


# 1: missing, empty, unknown


def test_missing(tmp_path):
    assert "no such file or folder" in refusal(tmp_path / "nothing")


def test_empty_file(tmp_path):
    (tmp_path / "a.extxyz").write_text("")
    assert f"{tmp_path / 'a.extxyz'} is empty" in refusal(tmp_path / "a.extxyz")


def test_empty_folder(tmp_path):
    text = refusal(tmp_path)
    assert "no relaxations found" in text
    assert "formats accepted: VASP folders" in text


@pytest.mark.parametrize(
    "name", ["notes.txt", "model.pt", "data.npz", "a.extxyz", "b.out", "OUTCAR", "vasprun.xml"]
)
def test_unknown_format(tmp_path, name):
    (tmp_path / name).write_text("<!doctype html>\n<p>not what the name says</p>\n")
    text = refusal(tmp_path / name)
    assert str(tmp_path / name) in text
    assert (
        "cannot read" in text or "is not an output of pw.x" in text or "holds no complete structure" in text
    )


def test_pickles_are_not_opened(tmp_path):
    """An .npz of pickled objects runs code when it is read; nothing here reads one (49)."""

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    np.savez(tmp_path / "data.npz", x=np.array([Bomb()], dtype=object))
    np.save(tmp_path / "data.npy", np.array([Bomb()], dtype=object))
    for name in ("data.npz", "data.npy"):
        refusal(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_all_problems_at_once(tmp_path, steps):
    (tmp_path / "empty.extxyz").write_text("")
    save(tmp_path, steps[:3], "unconverged.extxyz")
    save(tmp_path, steps[-1:], "single.extxyz")
    text = refusal(tmp_path)
    assert "3 problems" in text
    for name in ("empty", "unconverged", "single"):
        assert f"{name}.extxyz" in text
    assert "leave them out with skip_bad=True" in text


# 2: cut off


def test_cut_off_outcar(tmp_path, vasp_folder):
    text = gzip.decompress((vasp_folder / "GaN_Mg_Ga_q0" / "OUTCAR.gz").read_bytes()).decode()
    (tmp_path / "OUTCAR").write_text(text[: int(0.6 * len(text))])
    message = refusal(tmp_path)
    assert "relaxation did not finish" in message
    assert "not converged: final fmax" in message
    (r,) = read_relaxations(tmp_path, allow_unconverged=True)
    assert 2 <= len(r.frames) < 5
    assert np.isfinite(r.forces).all()


def test_cut_off_vasprun(tmp_path, vasp_folder):
    text = gzip.decompress((vasp_folder / "GaN_v_N_q0" / "vasprun.xml.gz").read_bytes()).decode()
    at = text.index("<calculation>", text.index("<calculation>") + 20000)
    (tmp_path / "vasprun.xml").write_text(text[: at + 8000])
    assert "relaxation did not finish" in refusal(tmp_path)
    (r,) = read_relaxations(tmp_path, allow_unconverged=True)
    assert 2 <= len(r.frames) < 8


def test_cut_off_espresso(tmp_path):
    with reading_of_files.unpacked(ESPRESSO / "si2_relax.pwo.xz") as plain:
        text = plain.read_text()
    (tmp_path / "a.pwo").write_text(text[: int(0.55 * len(text))])
    assert "relaxation did not finish" in refusal(tmp_path)


def test_cut_off_archive(tmp_path, steps):
    content = gzip.compress(save(tmp_path, steps).read_bytes())
    (tmp_path / "b.extxyz.gz").write_bytes(content[: len(content) // 2])
    assert "cannot unpack" in refusal(tmp_path / "b.extxyz.gz")


def test_cut_off_extxyz(tmp_path, steps):
    path = save(tmp_path, steps)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    assert "cannot read" in refusal(path)


def test_archive_that_unpacks_to_too_much(tmp_path, monkeypatch):
    (tmp_path / "a.extxyz.gz").write_bytes(gzip.compress(b" " * 2**21))
    monkeypatch.setattr(reading_of_files, "MAX_BYTES", 2**20)
    assert "unpacks to more than" in refusal(tmp_path / "a.extxyz.gz")


# 3, 4: not converged


def test_unconverged_target(tmp_path, steps):
    text = refusal(save(tmp_path, steps[:4]))
    assert "final fmax" in text
    assert "> 0.05 eV/angstrom" in text
    assert "(allow_unconverged=True)" in text
    assert read_relaxations(tmp_path / "a.extxyz", fmax=5.0)


def test_out_of_ionic_steps():
    assert "not converged: final fmax 0.76 > 0.05" in refusal(ESPRESSO / "si2_short.pwo.xz")


def test_electronic_loop_gave_up(tmp_path, vasp_folder):
    """VASP prints "EDIFF is reached" even when it stopped at NELM."""
    text = gzip.decompress((vasp_folder / "GaN_Mg_Ga_q0" / "OUTCAR.gz").read_bytes()).decode()
    counts = [text.count(f"Iteration{step:7d}(") for step in range(1, 6)]
    assert min(counts) > 0
    # With the limit at what the longest step took, that one did not converge: it is left out.
    (tmp_path / "OUTCAR").write_text(text.replace("NELM   =    200;", f"NELM   =    {max(counts):3d};"))
    assert "1 steps left out (0)" in notes(tmp_path)
    (r,) = read_relaxations(tmp_path)
    assert len(r.frames) == 4
    # With the limit at what the last step took, there is no target.
    (tmp_path / "OUTCAR").write_text(text.replace("NELM   =    200;", f"NELM   =    {counts[-1]:3d};"))
    assert "electronic loop did not converge at the last step" in refusal(tmp_path)


def test_electronic_loop_of_espresso_gave_up(tmp_path):
    with reading_of_files.unpacked(ESPRESSO / "si2_relax.pwo.xz") as plain:
        text = plain.read_text()
    good = "convergence has been achieved in"
    middle = text.replace(good, "convergence NOT achieved after", 3).replace(
        "convergence NOT achieved after", good, 2
    )
    (tmp_path / "a.pwo").write_text(middle)
    assert "1 steps left out (2)" in notes(tmp_path)
    head, tail = text.rsplit(good, 1)
    (tmp_path / "a.pwo").write_text(f"{head}convergence NOT achieved after{tail}")
    assert "electronic loop did not converge at the last step" in refusal(tmp_path)


# 5: no target


def test_single_points(tmp_path, steps):
    text = refusal(save(tmp_path, steps[-1:]))
    assert "has no relaxed partner" in text
    assert "info key `job`" in text


def test_a_set_of_different_structures(tmp_path, steps):
    text = refusal(save(tmp_path, [steps[0], bulk("Si"), bulk("Si", cubic=True)]))
    assert "step 1 has 2 atoms, the first has 32" in text
    assert "info key `job`" in text


def test_some_frames_without_the_key(tmp_path, steps):
    for atoms in steps[:-1]:
        atoms.info["job"] = "a"
    assert "frames 10 have no info key `job`" in refusal(save(tmp_path, steps))


# 6, 7, 8: not the same atoms


def test_counts_differ(tmp_path, steps):
    write(tmp_path / "POSCAR", steps[0])
    write(tmp_path / "CONTCAR", steps[-1][:-1])
    assert "step 1 has 31 atoms, the first has 32" in refusal(tmp_path)


def test_species_differ(tmp_path, steps):
    relaxed = steps[-1].copy()
    relaxed.symbols[0] = "Ge"
    write(tmp_path / "POSCAR", steps[0])
    write(tmp_path / "CONTCAR", relaxed)
    assert "step 1 is AlGePSi29, the first is AlPSi30" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["sorted", "same species"])
def test_order_differs(tmp_path, steps, relaxation, kind):
    order = np.arange(32)
    if kind == "sorted":
        order = np.argsort(relaxation.initial.species, kind="stable")
    else:
        silicon = np.flatnonzero(relaxation.initial.species == 14)
        order[silicon] = np.roll(silicon, 7)
    assert not np.array_equal(order, np.arange(32))
    relaxed = unlabelled(steps[-1])[order]
    write(tmp_path / "initial.xyz", unlabelled(steps[0]))
    write(tmp_path / "relaxed.xyz", relaxed)
    text = refusal(tmp_path)
    assert "in another order" in text
    assert "permutation" in text
    assert "apply it with reorder=True" in text
    (r,) = read_relaxations(tmp_path, reorder=True)
    assert "reordered" in notes(tmp_path, reorder=True)
    np.testing.assert_array_equal(r.relaxed.species, r.initial.species)
    np.testing.assert_allclose(r.relaxed.positions, relaxation.relaxed.positions, atol=1e-6)


def test_labels_are_reordered_with_their_atoms(tmp_path, steps, relaxation):
    order = np.argsort(relaxation.initial.species, kind="stable")
    forces = relaxation.forces[-1][order]
    relaxed = unlabelled(steps[-1])[order]
    relaxed.calc = SinglePointCalculator(relaxed, forces=forces)
    (r,) = read_relaxations(save(tmp_path, [unlabelled(steps[0]), relaxed]), reorder=True)
    np.testing.assert_allclose(r.forces[-1], relaxation.forces[-1], atol=1e-8)


def test_no_order_fits(tmp_path, steps):
    relaxed = unlabelled(steps[-1])[::-1]
    relaxed.positions = np.random.default_rng(0).uniform(0, 8, (32, 3))
    write(tmp_path / "initial.xyz", unlabelled(steps[0]))
    write(tmp_path / "relaxed.xyz", relaxed)
    assert "no reordering brings all of them within" in refusal(tmp_path, reorder=True)


# 9, 10, 11: motion


def test_crossing_a_boundary(tmp_path):
    a = Atoms("Si2", positions=[[0.05, 0, 0], [2.4, 0, 0]], cell=[5, 5, 5], pbc=True)
    b = Atoms("Si2", positions=[[4.98, 0, 0], [2.33, 0, 0]], cell=[5, 5, 5], pbc=True)
    write(tmp_path / "initial.xyz", a)
    write(tmp_path / "relaxed.xyz", b)
    (r,) = read_relaxations(tmp_path)
    np.testing.assert_allclose(r.relaxed.positions[:, 0], [-0.02, 2.33], atol=1e-9)
    assert "1 atoms crossed a periodic boundary" in notes(tmp_path)


def test_suspiciously_far(tmp_path, steps):
    a, b = unlabelled(steps[0]) * (2, 2, 2), unlabelled(steps[-1]) * (2, 2, 2)
    b.positions[9] += [3.5, 0.0, 0.0]
    b.positions[30:] += [0.0, 0.0, 1e-3]
    write(tmp_path / "initial.xyz", a)
    write(tmp_path / "relaxed.xyz", b)
    text = refusal(tmp_path)
    assert "1 atoms end further than 3 angstrom from their start (atom 9: 3." in text


def test_ambiguous_image(tmp_path):
    a = bulk("Si", a=5.43)  # cell height 3.1 angstrom
    b = a.copy()
    b.positions[1] += 0.49 * b.cell[0]
    write(tmp_path / "initial.xyz", a)
    write(tmp_path / "relaxed.xyz", b)
    assert "its periodic image is ambiguous" in refusal(tmp_path)


def test_drift(tmp_path, steps):
    relaxed = unlabelled(steps[-1])
    relaxed.positions += [0.3, 0.0, 0.0]
    write(tmp_path / "initial.xyz", unlabelled(steps[0]))
    write(tmp_path / "relaxed.xyz", relaxed)
    assert "rigid drift of 0.30 angstrom" in notes(tmp_path)


# 12, 13, 14, 15: cells


def test_cell_changes_where_it_must_not():
    path = ESPRESSO / "si2_vcrelax.pwo.xz"
    text = refusal(path, relax_cell=False)
    assert "cell changes by 8.1%" in text
    assert "set relax_cell" in text
    assert read_relaxations(path, relax_cell=True)
    with pytest.raises(InputError, match="these pairs are for relaxations in one cell"):
        read_pairs(path, GraphSpec(3.0))


def test_another_setting(tmp_path, steps):
    rotated = unlabelled(steps[-1])
    rotated.rotate(90, "z", rotate_cell=True)
    write(tmp_path / "initial.xyz", unlabelled(steps[0]))
    write(tmp_path / "relaxed.xyz", rotated)
    assert "rotated" in refusal(tmp_path)


def test_primitive_against_supercell(tmp_path):
    write(tmp_path / "initial.xyz", bulk("Si"))
    write(tmp_path / "relaxed.xyz", bulk("Si", cubic=True))
    assert "8 atoms, the first has 2" in refusal(tmp_path)


def test_left_handed(tmp_path):
    a = bulk("Si", cubic=True)
    a.set_cell(a.cell.array[[1, 0, 2]])
    write(tmp_path / "initial.xyz", a)
    write(tmp_path / "relaxed.xyz", a)
    assert "left-handed cell: used as it is" in notes(tmp_path)
    (pair,) = read_pairs(tmp_path, GraphSpec(3.0))
    assert pair.system.candidates.mask.sum() >= 8 * 4


def test_a_bulk_without_periodicity(tmp_path, steps):
    for atoms in steps:
        atoms.pbc = False
    path = save(tmp_path, steps)
    text = refusal(path)
    assert "pbc is FFF but a cell is given" in text
    assert "is this a bulk?" in text
    (r,) = read_relaxations(path, pbc=True)
    assert r.initial.pbc.all()


def test_periodic_without_volume(tmp_path, steps):
    for atoms in steps:
        atoms.set_cell([5.0, 5.0, 0.0])
        atoms.calc = None
    text = refusal(save(tmp_path, steps))
    assert "cell has no volume although pbc is TTT" in text


def test_slab(tmp_path):
    slab = bulk("Si", cubic=True)
    slab.pbc = [True, True, False]
    slab.cell[2] = 0.0
    slab.positions[0, 2] -= 1.0
    moved = slab.copy()
    moved.positions[3] += 0.2
    write(tmp_path / "initial.xyz", slab)
    write(tmp_path / "relaxed.xyz", moved)
    (r,) = read_relaxations(tmp_path)
    np.testing.assert_allclose(r.relaxed.positions[3] - r.initial.positions[3], 0.2, atol=1e-6)
    assert np.linalg.matrix_rank(r.initial.cell) == 3


# 17, 18, 19: atoms


@pytest.mark.parametrize(("distance", "fatal"), [(1.2, True), (1.45, False)])
def test_overlap(tmp_path, steps, distance, fatal):
    for atoms in steps:
        atoms.calc = None
    steps[0].positions[7] = steps[0].positions[3] + [distance, 0, 0]
    path = save(tmp_path, [steps[0], steps[0]])
    text = refusal(path) if fatal else notes(path)
    assert "atoms 3 and 7 of the initial structure overlap" in text


@pytest.mark.parametrize("what", ["position", "force", "cell"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(tmp_path, steps, what, value):
    if what == "position":
        steps[4].positions[6, 1] = value
        steps[4].calc = None
    elif what == "force":
        steps[-1].calc.results["forces"][6, 1] = value
    else:
        steps[4].cell[0, 0] = value
        steps[4].calc = None
    text = refusal(save(tmp_path, steps))
    assert "NaN or infinite" in text
    if what != "cell":
        assert "atom 6" in text


def test_isolated_atom(tmp_path):
    a = Atoms("Si3", positions=[[0, 0, 0], [2.3, 0, 0], [9, 0, 0]])
    write(tmp_path / "initial.xyz", a)
    write(tmp_path / "relaxed.xyz", a)
    assert "atom 2 of the relaxed structure has no neighbors" in notes(tmp_path)


# 20, 21, 22, 23: labels (24, 25: tests/io/test_labels.py)


def test_forces_under_another_key(tmp_path, steps):
    for atoms in steps:
        atoms.arrays["dft_forces"] = atoms.calc.results.pop("forces")
    path = save(tmp_path, steps)
    assert "but dft_forces found and not used -> set forces_key='dft_forces'" in notes(path)
    (r,) = read_relaxations(path, forces_key="dft_forces")
    assert r.fmax < 0.05
    text = refusal(path, forces_key="vasp_forces")
    assert "no usable label under key vasp_forces" in text
    assert "dft_forces" in text


def test_forces_are_read_raw(tmp_path, steps):
    for atoms in steps:
        atoms.set_constraint(FixAtoms([0, 1]))
    path = save(tmp_path, steps, "a.traj")
    (r,) = read_relaxations(path)
    assert np.abs(r.forces[:, [0, 1]]).max() > 0
    assert "2 atoms are fixed" in notes(path)


@pytest.mark.parametrize(
    ("energy", "force", "verdict"), [(0.0734986, 1.0, "rydberg"), (1.0, 0.0388938, "rydberg/bohr")]
)
def test_units(tmp_path, steps, energy, force, verdict):
    for atoms in steps:
        atoms.calc.results["energy"] *= energy
        atoms.calc.results["forces"] *= force
    text = refusal(save(tmp_path, steps))
    assert "looks like" in text
    assert verdict in text
    assert "convert to eV" in text


# 30: leakage (31, frame-wise splits: tests/io/test_splits.py)


def test_structures_that_share_a_parent_share_a_group(tmp_path, steps):
    save(tmp_path, steps, "a.extxyz")
    save(tmp_path, [steps[0], *steps[3:]], "b.extxyz")
    found = inspect(tmp_path)
    assert len({r.group for r in found.relaxations}) == 1
    assert any("same initial structure as a" in str(note) for note in found.notes)


# 56: names


def test_names_cannot_leave_their_folder_or_their_page(tmp_path, steps):
    for atoms in steps:
        atoms.info["job"] = "../../<img src=x onerror=alert(1)>"
    (r,) = read_relaxations(save(tmp_path, steps))
    assert r.name == "img_src_x_onerror_alert_1"


def test_folders_that_link_in_circles_and_elsewhere(tmp_path, steps):
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    save(tmp_path / "here", steps)
    (tmp_path / "here" / "again").symlink_to(tmp_path / "here")
    assert len(read_relaxations(tmp_path / "here")) == 1
    save(tmp_path / "elsewhere", steps[1:], "b.extxyz")
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "elsewhere")
    assert [r.name for r in read_relaxations(tmp_path / "here")] == ["a", "linked_b"]


def test_pairs_of_wrong_files(tmp_path, steps):
    write(tmp_path / "a.xyz", unlabelled(steps[0]))
    (tmp_path / "b.xyz").write_text("")
    with pytest.raises(InputError, match="b.xyz is empty"):
        read_pair(tmp_path / "a.xyz", tmp_path / "b.xyz")
    shutil.copy(tmp_path / "a.xyz", tmp_path / "b.xyz")
    assert read_pair(tmp_path / "a.xyz", tmp_path / "b.xyz").name == "a"
