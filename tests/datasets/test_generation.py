"""Making reference data: defects, starts, pseudopotentials, inputs; pw.x itself where it is installed."""

import shutil

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

from bptt_relax import datasets, io
from bptt_relax.datasets import generate
from bptt_relax.datasets.generation import defects, pseudopotentials, pwscf, starts
from bptt_relax.outcomes import InputError

HYDROGEN_LIKE = """<UPF version="2.0.1">
<PP_HEADER element="Si" pseudo_type="NC" z_valence="4.000E+00"/>
"""
OLD_FORMAT = """<PP_HEADER>
   0                   Version Number
   O                   Element
   US                  Ultrasoft pseudopotential
    6.00000000000      Z valence
"""


@pytest.fixture
def silicon():
    return bulk("Si", a=5.475, cubic=True).repeat(2)


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "formula", "neighbors"),
    [
        ("V_Si", "Si63", 4),
        ("P_Si", "PSi63", 4),
        ("Al_i", "AlSi64", 4),
        ("V_Si+P_Si", "PSi62", 4),
        ("V_Si+V_Si", "Si62", 3),
        ("V_Si+Al_i", "AlSi63", 4),
        ("B_split110_Si", "BSi64", 2),
        ("Si_split100_Si", "Si65", 2),
        ("O_bc_Si", "OSi64", 2),
    ],
)
def test_a_defect_changes_what_its_name_says(silicon, name, formula, neighbors):
    for seed in range(5):
        atoms, center = defects.create(silicon, name, np.random.default_rng(seed))
        assert atoms.get_chemical_formula() == formula
        near = np.linalg.norm(defects._nearest_image(atoms, atoms.positions - center), axis=1)
        assert np.sum(near < 2.5) >= neighbors
        distances = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
        assert distances.min() > 1.1


def test_parts_of_a_complex_are_neighbors(silicon):
    for seed in range(5):
        atoms, center = defects.create(silicon, "V_Si+P_Si", np.random.default_rng(seed))
        phosphorus = atoms.positions[np.flatnonzero(np.asarray(atoms.symbols) == "P")]
        away = np.linalg.norm(defects._nearest_image(atoms, phosphorus - center))
        assert away == pytest.approx(5.475 * np.sqrt(3) / 4)


def test_sites_follow_the_elements_of_a_compound():
    host = bulk("SiC", "zincblende", a=4.38, cubic=True).repeat(2)
    atoms, _ = defects.create(host, "V_C", rng())
    assert atoms.get_chemical_formula() == "C31Si32"
    with pytest.raises(InputError, match="no Ge site"):
        defects.create(host, "V_Ge", rng())


@pytest.mark.parametrize("name", ["V_Sx", "Si", "V_i", "V_bc_Si", "P_split_Si", "P_Si+", ""])
def test_a_name_without_a_rule_is_refused(silicon, name):
    with pytest.raises(InputError, match="no defect"):
        defects.create(silicon, name, rng())


def test_voids_of_diamond_are_the_tetrahedral_and_hexagonal_sites():
    places, widths = defects.voids_of(bulk("Si", a=5.475, cubic=True))
    bond = 5.475 * np.sqrt(3) / 4
    assert sorted(set(widths.round(6))) == pytest.approx([5.475 * np.sqrt(11) / 8, bond])
    assert np.sum(np.isclose(widths, bond)) == 8
    assert np.sum(~np.isclose(widths, bond)) == 16
    assert len(places) == 24


def test_a_seed_names_its_start(silicon):
    one, same, other = (starts.draw(silicon, "V_Si", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.atoms.positions, same.atoms.positions)
    assert not np.allclose(one.atoms.positions, other.atoms.positions)
    assert one.breathe != 0
    assert other.breathe == 0
    assert starts.draw(silicon, "V_Si", 3).strain == 0


def test_headers_of_both_formats_are_read(tmp_path):
    (tmp_path / "Si.new.UPF").write_text(HYDROGEN_LIKE)
    (tmp_path / "o_old.upf").write_text(OLD_FORMAT)
    found = pseudopotentials.find(tmp_path, ["Si", "O"])
    assert found["Si"][1:] == (4.0, True)
    assert found["O"][1:] == (6.0, False)


def test_missing_and_doubled_pseudopotentials_are_all_named(tmp_path):
    (tmp_path / "Si.a.UPF").write_text(HYDROGEN_LIKE)
    (tmp_path / "Si.b.UPF").write_text(HYDROGEN_LIKE)
    with pytest.raises(InputError, match=r"Si has several: Si\.a\.UPF, Si\.b\.UPF.*; P has none"):
        pseudopotentials.find(tmp_path, ["Si", "P"])
    (tmp_path / "C.x.UPF").write_text("<html>")
    with pytest.raises(InputError, match="not a UPF"):
        pseudopotentials.find(tmp_path, ["C"])


def test_the_input_says_what_the_level_says(tmp_path, silicon):
    (tmp_path / "Si.x.UPF").write_text(HYDROGEN_LIKE)
    pseudos = pseudopotentials.find(tmp_path, ["Si"])
    text = pwscf.input_text(silicon, pwscf.Level(), pseudos, tmp_path)
    assert "ecutrho          = 96.0" in text
    assert "nbnd             = 140" in text, "128 occupied bands and a twentieth of the 256 electrons"
    assert "K_POINTS crystal\n1\n0.25 0.25 0.25 1.0\n" in text
    assert "K_POINTS gamma" not in text
    assert text.count("\nSi ") == 65
    free = pwscf.input_text(silicon, pwscf.Level(kpoints="2 2 2 1 1 1", mode="vc-relax"), pseudos, tmp_path)
    assert "K_POINTS automatic\n2 2 2 1 1 1\n" in free
    assert "press_conv_thr" in free
    with pytest.raises(InputError, match="k points"):
        pwscf.k_points("2 2 2")


def test_bundled_levels_are_understood():
    for name in ("silicon-defects", "crystals"):
        for r in datasets.load(name).relaxations:
            level = generate.level_of(str(r.info["dft"]), str(r.info["mode"]))
            assert str(r.info["dft"]).endswith(level.describe())
            assert level.mode == r.info["mode"]


def test_starts_can_be_looked_at_without_pw(tmp_path):
    bulk("Si", a=5.475).write(tmp_path / "si.cif")
    arguments = [
        str(tmp_path / "si.cif"),
        "--defects",
        "V_Si",
        "P_Si",
        "--seeds",
        "2",
        "--out",
        str(tmp_path / "o"),
    ]
    assert generate.main([*arguments, "--dry-run"]) == 0
    written = read(tmp_path / "o" / "starts.extxyz", index=":")
    assert [len(a) for a in written] == [15, 16, 15, 16]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the host"),
        (["nofile.cif", "--defects", "V_Si"], "cannot read the host nofile.cif"),
        (["--repeat", "p32_nothing"], "no bundled relaxation p32_nothing"),
    ],
)
def test_bad_requests_are_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        generate.main(arguments)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pw.x") is None, reason="needs pw.x of Quantum ESPRESSO")
def test_a_relaxation_from_start_to_training_data(tmp_path):
    """Two silicon atoms at a low cutoff; the pseudopotential is that of Debian's quantum-espresso-data."""
    from pathlib import Path

    source = Path("/usr/share/espresso/pseudo/Si.pbe-rrkj.UPF")
    if not source.is_file():
        pytest.skip(f"no {source}")
    shutil.copy(source, tmp_path)
    bulk("Si", a=5.475).write(tmp_path / "si.cif")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "si.cif"), "--defects", "bulk", "--supercell", "1", "1", "1", "--seeds", "2"]
    arguments += ["--kpoints", "2 2 2 1 1 1", "--cutoff", "14", "--pseudos", str(tmp_path), "--out", str(out)]
    assert generate.main(arguments) == 0
    found = io.read_relaxations(out)
    assert [r.name for r in found] == ["Si2_bulk_s0", "Si2_bulk_s1"]
    assert all(r.converged and r.fmax < 0.05 and r.forces is not None for r in found)
    written = (out / "Si2_bulk_s0.extxyz").stat().st_mtime_ns
    assert generate.main(arguments) == 0, "finished relaxations are not done again"
    assert (out / "Si2_bulk_s0.extxyz").stat().st_mtime_ns == written
