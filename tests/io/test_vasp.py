"""What a run of VASP was, from files in its formats that are written from our own relaxations."""

import gzip

import numpy as np
import pytest

from bptt_relax.io import inspect, read_relaxations
from bptt_relax.io.sources import vasp_name
from bptt_relax.io.vasp import calculation_of_outcar, calculation_of_vasprun

BOTH = pytest.mark.parametrize("kind", ["OUTCAR", "vasprun.xml"])


def save(folder, files, kind, name=None, **how):
    """Write one run in one of the formats."""
    folder.mkdir(parents=True, exist_ok=True)
    text = files.outcar(**how) if kind == "OUTCAR" else files.vasprun(**how)
    (folder / (name or kind)).write_text(text)
    return folder


def refusals(folder, **options):
    found = inspect(folder, **options)
    assert not found.relaxations
    return "\n".join(map(str, found.rejected))


@BOTH
def test_what_is_read_is_what_was_written(tmp_path, relaxation, vasp_files, kind):
    files = vasp_files(relaxation, NELECT=vasp_files(relaxation).electrons - 1, ISPIN=2)
    (r,) = read_relaxations(save(tmp_path, files, kind))
    order = files.order
    np.testing.assert_allclose(r.relaxed.positions, relaxation.relaxed.positions[order], atol=1e-6)
    np.testing.assert_allclose(r.forces, relaxation.forces[:, order], atol=1e-6)
    np.testing.assert_allclose(r.energies, relaxation.energies, atol=1e-7)
    np.testing.assert_allclose(r.stresses, relaxation.stresses, atol=1e-7)
    made = r.calculation
    assert (made.code, made.task, made.free_cell, made.pressure) == ("VASP 6.4.2", "relaxation", False, 0.0)
    assert (made.functional, made.charge, made.spin, made.dispersion) == ("PBE", 1.0, True, None)
    assert (made.cutoff, made.electronic_steps, made.step) == (245.0, 60, 0.5)
    assert made.pseudopotentials == {s: f"PAW_PBE {s} 01Jan2001" for s in ("Al", "Si", "P")}
    assert made.describe() == "VASP 6.4.2, PBE, spin-polarized, charge +1"


@BOTH
@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"IBRION": 0}, "molecular dynamics (IBRION = 0)"),
        ({"IBRION": 5}, "frozen-phonon displacements"),
        ({"IBRION": 6}, "(IBRION = 6)"),
        ({"IBRION": 7}, "phonon"),
        ({"IBRION": 8}, "phonon"),
        ({"IBRION": 44}, "dimer"),
        ({"ICHAIN": 2}, "dimer"),
        ({"IBRION": 3, "IMAGES": 5}, "nudged elastic band"),
        ({"IBRION": -1, "NSW": 0}, "single point"),
        ({"NSW": 0}, "single point"),
        ({"ML_LMLFF": "T"}, "machine-learned force field"),
    ],
)
def test_what_is_no_relaxation_is_refused_by_its_name(tmp_path, squeezed, vasp_files, kind, tags, named):
    text = refusals(save(tmp_path, vasp_files(squeezed, ISIF=3, **tags), kind))
    assert "not a relaxation" in text
    assert named in text


@BOTH
@pytest.mark.parametrize("learned", [range(1, 100), (2, 3)])
def test_steps_of_a_force_field_are_known_where_no_setting_says_so(
    tmp_path, squeezed, vasp_files, kind, learned
):
    text = refusals(save(tmp_path, vasp_files(squeezed, ISIF=3), kind, learned=learned))
    assert "machine-learned force field (ML_LMLFF), not of DFT" in text


@pytest.mark.parametrize("ibrion", [1, 2, 3])
def test_relaxations_are_relaxations(squeezed, vasp_files, ibrion):
    files = vasp_files(squeezed, IBRION=ibrion)
    assert calculation_of_outcar(files.outcar()).task == "relaxation"
    assert calculation_of_vasprun(files.vasprun()).task == "relaxation"


@pytest.mark.parametrize(
    ("tags", "functional", "dispersion"),
    [
        ({}, "PBE", None),
        ({"GGA": "PS"}, "PBEsol", None),
        ({"GGA": "--"}, "PBE", None),  # as the POTCAR says
        ({"GGA": "CA"}, "LDA", None),
        ({"METAGGA": "R2SCAN"}, "R2SCAN", None),
        ({"LHFCALC": "T", "AEXX": 0.25, "HFSCREEN": 0.2}, "HSE06", None),
        ({"LHFCALC": "T", "AEXX": 0.25, "HFSCREEN": 0.0}, "PBE0", None),
        (
            {"LHFCALC": "T", "AEXX": 0.3, "HFSCREEN": 0.2},
            "hybrid of PBE with 30% exact exchange, screened 0.2",
            None,
        ),
        ({"IVDW": 12}, "PBE", "D3(BJ)"),
        ({"IVDW": 0}, "PBE", None),
        ({"LUSE_VDW": "T"}, "PBE", "nonlocal vdW-DF"),
    ],
)
def test_functionals(squeezed, vasp_files, tags, functional, dispersion):
    files = vasp_files(squeezed, **tags)
    for made in (calculation_of_outcar(files.outcar()), calculation_of_vasprun(files.vasprun())):
        assert made.functional.startswith(functional)
        assert made.dispersion == dispersion


def test_u(relaxation, vasp_files):
    files = vasp_files(relaxation, LDAU="T")
    head, rest = files.outcar().split("   NSW", 1)
    table = (
        "   angular momentum for each species LDAUL =    -1    2    1\n"
        "   U (eV)           for each species LDAUU =   0.0  4.0  0.0\n"
        "   J (eV)           for each species LDAUJ =   0.0  0.5  0.0\n"
    )
    assert calculation_of_outcar(f"{head}{table}   NSW{rest}").hubbard == {"Si": "l=2 U=4 J=0.5 eV"}
    assert calculation_of_outcar(vasp_files(relaxation).outcar()).hubbard == {}
    vectors = {"LDAUL": "-1 2 1", "LDAUU": "0.0 4.0 0.0", "LDAUJ": "0.0 0.5 0.0"}
    rows = "".join(f'<v name="{tag}">{numbers}</v>\n' for tag, numbers in vectors.items())
    text = files.vasprun().replace(" </parameters>", f"{rows} </parameters>")
    assert calculation_of_vasprun(text).hubbard == {"Si": "l=2 U=4 J=0.5 eV"}


# Pressure


def under_pressure(r, gpa):
    """The relaxation as it would look at a pressure at which it has come to rest."""
    stresses = r.stresses - gpa / 160.21766208 * np.eye(3)
    volumes = np.array([abs(np.linalg.det(f.cell)) for f in r.frames])
    # dE = V sigma : strain, here -p dV besides what it was.
    energies = r.energies - gpa / 160.21766208 * (volumes - volumes[0])
    return r._replace(stresses=stresses, energies=energies)


@BOTH
@pytest.mark.parametrize("pstress", [50.0, -20.0])
def test_pressure_is_refused_and_carried(tmp_path, squeezed, vasp_files, kind, pstress):
    gpa = pstress / 10
    folder = save(tmp_path, vasp_files(under_pressure(squeezed, gpa), ISIF=3, PSTRESS=pstress), kind)
    text = refusals(folder)
    assert f"the cell was relaxed at a pressure of {gpa:g} GPa (PSTRESS, press), not at 0" in text
    assert f"(pressure={gpa:g})" in text
    (r,) = read_relaxations(folder, pressure=gpa)
    assert r.pressure == pytest.approx(gpa / 160.21766208)
    (atoms,) = read_relaxations(folder, in_relaxed_cell=True)
    assert atoms.pressure == 0.0
    np.testing.assert_array_equal(atoms.initial.cell, atoms.relaxed.cell)


def test_pressure_on_a_cell_that_is_given_is_nothing(tmp_path, relaxation, vasp_files):
    (r,) = read_relaxations(save(tmp_path, vasp_files(relaxation, PSTRESS=50.0), "OUTCAR"))
    assert r.pressure == 0.0


def test_two_pressures_in_one_set_are_refused_with_the_file(tmp_path, squeezed, crystals, vasp_files):
    other = crystals.select(["x_Si_bc8_vcrelax_s0"])[0]
    save(tmp_path / "none", vasp_files(other, ISIF=3), "OUTCAR")
    save(tmp_path / "some", vasp_files(under_pressure(squeezed, 5.0), ISIF=3, PSTRESS=50.0), "OUTCAR")
    for pressure, wrong in ((0.0, "some"), (5.0, "none")):
        found = inspect(tmp_path, pressure=pressure)
        assert len(found.relaxations) == 1
        (problem,) = found.rejected
        assert wrong in problem.source


@BOTH
def test_a_cell_that_is_still_under_stress_has_not_converged(tmp_path, squeezed, vasp_files, kind):
    """With forces of zero by symmetry, whatever the cell."""
    strained = squeezed._replace(stresses=squeezed.stresses - 0.01 * np.eye(3))
    text = refusals(save(tmp_path, vasp_files(strained, ISIF=3), kind))
    assert "the cell has not converged: final stress is 1.6 GPa away" in text
    assert "smax=2" in text
    assert read_relaxations(tmp_path, smax=2)
    assert read_relaxations(tmp_path, allow_unconverged=True)
    # In a cell that is given a stress is nobody's fault.
    fixed = strained._replace(frames=tuple(f._replace(cell=squeezed.relaxed.cell) for f in squeezed.frames))
    fixed = fixed._replace(energies=np.zeros(len(fixed.frames)))
    save(tmp_path / "fixed", vasp_files(fixed), kind)
    assert not any("final stress" in str(p) for p in inspect(tmp_path / "fixed").rejected)


# One method


def test_methods_that_differ_are_named_with_who_has_them(tmp_path, squeezed, crystals, vasp_files):
    other = crystals.select(["x_Si_bc8_vcrelax_s0"])[0]
    save(tmp_path / "one", vasp_files(squeezed, ISIF=3), "OUTCAR")
    save(tmp_path / "two", vasp_files(other, ISIF=3, GGA="PS"), "vasprun.xml")
    text = "\n".join(map(str, inspect(tmp_path).notes))
    assert "different functionals in one data set: PBE (one); PBEsol (two)" in text
    changed = vasp_files(other, ISIF=3).outcar().replace("PAW_PBE Si 01Jan2001", "PAW_PBE Si_sv 01Jan2001")
    (tmp_path / "two" / "vasprun.xml").unlink()
    (tmp_path / "two" / "OUTCAR").write_text(changed)
    text = "\n".join(map(str, inspect(tmp_path).notes))
    assert (
        "different pseudopotentials of Si in one data set: PAW_PBE Si 01Jan2001 (one); PAW_PBE Si_sv" in text
    )
    assert "functionals" not in text


# Names, constraints, restarts


@pytest.mark.parametrize(
    ("name", "role", "tag"),
    [
        ("vasprun.xml", "vasprun.xml", ""),
        ("vasprun.xml.relax1.gz", "vasprun.xml", "relax1"),
        ("vasprun_run-2.xml.bz2", "vasprun.xml", "run-2"),
        ("OUTCAR.relax2.gz", "OUTCAR", "relax2"),
        ("OUTCAR_1", "OUTCAR", "1"),
        ("OUTCAR1", "OUTCAR", "1"),
        ("01_OUTCAR.xz", "OUTCAR", "01"),
        ("POSCAR.orig.gz", "POSCAR", "orig"),
        ("CONTCAR", "CONTCAR", ""),
    ],
)
def test_names(tmp_path, name, role, tag):
    assert vasp_name(tmp_path / name) == (role, tag)


@pytest.mark.parametrize("name", ["vasprun.txt", "OUTCAR.md5", "relax.out", "POTCARs", "notes_OUTCAR.png"])
def test_names_of_something_else(tmp_path, name):
    assert vasp_name(tmp_path / name) is None


def held(r, atoms):
    """The relaxation with atoms that the forces did not move, and large forces on them."""
    frames = []
    for frame in r.frames:
        positions = frame.positions.copy()
        positions[atoms] = r.initial.positions[atoms]
        frames.append(frame._replace(positions=positions))
    forces = r.forces.copy()
    forces[:, atoms] = 0.7
    return r._replace(frames=tuple(frames), forces=forces)


@BOTH
@pytest.mark.parametrize("tag", ["", ".relax1", "_run3", ".static.2"])
@pytest.mark.parametrize("role", ["POSCAR", "CONTCAR"])
def test_held_atoms_are_held_whatever_the_files_are_called(tmp_path, squeezed, vasp_files, kind, tag, role):
    fixed = squeezed._replace(frames=tuple(f._replace(cell=squeezed.initial.cell) for f in squeezed.frames))
    files = vasp_files(held(fixed._replace(energies=np.zeros(len(fixed.frames))), [0, 1]))
    save(tmp_path, files, kind, name=f"{kind}{tag}")
    text = refusals(tmp_path)
    assert "on atoms 0, 1 alone, which never moved at all: perhaps held fixed" in text
    (tmp_path / f"{role}{tag}.gz").write_bytes(gzip.compress(files.poscar(held=[0, 1]).encode()))
    found = inspect(tmp_path)
    assert not found.rejected
    assert any("2 atoms are fixed wholly or in part" in note.text for note in found.notes)
    np.testing.assert_array_equal(np.flatnonzero(~found.relaxations[0].initial.free.all(axis=1)), [0, 1])


def test_a_poscar_of_other_atoms_holds_nothing(tmp_path, relaxation, squeezed, vasp_files):
    save(tmp_path, vasp_files(relaxation), "OUTCAR")
    (tmp_path / "POSCAR").write_text(vasp_files(squeezed).poscar(held=[0, 1]))
    found = inspect(tmp_path)
    assert found.relaxations[0].initial.free.all()
    assert any("POSCAR has other atoms: what it holds fixed is not used" in n.text for n in found.notes)


def parts(r, at):
    """A relaxation stopped after some steps and started again where it stopped."""

    def cut(where):
        return r._replace(
            frames=r.frames[where],
            energies=r.energies[where],
            forces=r.forces[where],
            stresses=r.stresses[where],
            converged=where.stop is None,
        )

    return cut(slice(0, at + 1)), cut(slice(at, None))


@BOTH
@pytest.mark.parametrize("names", [(".relax1", ".relax2"), (".relax9", ".relax10"), (".1", "")])
def test_a_restart_in_one_folder_is_one_relaxation(tmp_path, relaxation, vasp_files, kind, names):
    first, second = parts(relaxation, 4)
    for part, name in zip((first, second), names, strict=True):
        save(tmp_path / "run", vasp_files(part), kind, name=kind + name)
    found = inspect(tmp_path)
    assert not found.rejected
    (r,) = found.relaxations
    assert (r.name, r.group) == ("run", "run")
    assert len(r.frames) == len(relaxation.frames)
    order = vasp_files(relaxation).order
    for mine, theirs in zip(r.frames, relaxation.frames, strict=True):
        np.testing.assert_allclose(mine.positions, theirs.positions[order], atol=1e-6)
    np.testing.assert_allclose(r.energies, relaxation.energies, atol=1e-6)
    assert any("restarted" in note.text for note in found.notes)


@BOTH
def test_a_restart_in_another_folder_is_one_relaxation(tmp_path, relaxation, vasp_files, kind):
    for part, name in zip(parts(relaxation, 4), ("a/first", "b/second"), strict=True):
        save(tmp_path / name, vasp_files(part), kind)
    (r,) = inspect(tmp_path).relaxations
    assert len(r.frames) == len(relaxation.frames)


def test_what_goes_on_with_another_method_is_another_relaxation_of_the_group(
    tmp_path, relaxation, vasp_files
):
    for part, name, gga in zip(parts(relaxation, 9), ("a", "b"), ("PE", "PS"), strict=True):
        save(tmp_path / name, vasp_files(part, GGA=gga), "OUTCAR")
    found = inspect(tmp_path, fmax=1.0)
    assert len(found.relaxations) == 2
    assert len({r.group for r in found.relaxations}) == 1
    assert any("its initial structure is the relaxed one of a" in note.text for note in found.notes)


def test_runs_that_were_appended_are_refused(tmp_path, relaxation, vasp_files):
    texts = [vasp_files(part).outcar() for part in parts(relaxation, 4)]
    (tmp_path / "OUTCAR").write_text("".join(texts))
    assert "the file holds 2 runs, one appended to the other -> split it" in refusals(tmp_path)


def test_a_file_beside_an_output_is_passed_over_with_a_note(tmp_path, relaxation, vasp_files, steps):
    from ase.io import write

    save(tmp_path, vasp_files(relaxation), "OUTCAR")
    write(tmp_path / "more.extxyz", steps)
    found = inspect(tmp_path)
    assert len(found.relaxations) == 1
    assert any("more.extxyz: not read, because OUTCAR beside it is" in str(note) for note in found.notes)
