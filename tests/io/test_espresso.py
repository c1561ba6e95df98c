"""What a run of pw.x was, from outputs of our own runs of two atoms."""

import lzma
import re

import numpy as np
import pytest

from bptt_relax.io import inspect, read_relaxations
from bptt_relax.io.espresso import calculation_of_pw, course_of_pw


@pytest.fixture(scope="module")
def output(files):
    return lambda name: lzma.decompress((files / f"{name}.pwo.xz").read_bytes()).decode()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "si2_relax",
            {"task": "relaxation", "functional": "PBE", "charge": 0.0, "spin": False, "free_cell": False},
        ),
        ("si2_vcrelax", {"task": "relaxation", "free_cell": True, "pressure": 0.0}),
        ("si2_pressure", {"task": "relaxation", "free_cell": True, "pressure": 5.0}),
        ("si2_lda", {"functional": "LDA", "pseudopotentials": {"Si": "Si.pz-vbc.UPF"}}),
        ("si2_charged_d3", {"charge": 1.0, "spin": True, "dispersion": "D3", "hubbard": {}}),
        ("c2_hubbard", {"hubbard": {"C": "l=1 U=2 J=0 eV"}, "task": "relaxation"}),
        ("si2_md", {"task": "molecular dynamics"}),
        ("si2_scf", {"task": "single point (calculation = 'scf')"}),
        ("si2_labels", {"pseudopotentials": {"Si": "Si.pbe-rrkj.UPF"}, "charge": 0.0}),
    ],
)
def test_what_it_was(output, name, expected):
    made = calculation_of_pw(output(name))
    assert {key: getattr(made, key) for key in expected} == expected
    assert made.code == "Quantum ESPRESSO 6.7MaX"


def test_u_as_later_versions_print_it():
    text = (
        "     Program PWSCF v.7.2 starts\n"
        "     Hubbard parameters of DFT+U (Dudarev formulation) in eV:\n     U(Fe1-3d)  =  4.3000\n\n! total"
    )
    assert calculation_of_pw(text).hubbard == {"Fe": "l=2 U=4.3 J=0 eV"}


@pytest.mark.parametrize(("name", "named"), [("si2_md", "molecular dynamics"), ("si2_scf", "single point")])
def test_what_is_no_relaxation_is_refused_by_its_name(files, name, named):
    found = inspect(files / f"{name}.pwo.xz")
    assert not found.relaxations
    assert f"not a relaxation: {named}" in found.rejected[0].text


def test_pressure(files):
    path = files / "si2_pressure.pwo.xz"
    (problem,) = inspect(path).rejected
    assert "the cell was relaxed at a pressure of 5 GPa" in problem.text
    (r,) = read_relaxations(path, pressure=5.0)
    assert r.pressure * 160.21766208 == pytest.approx(5.0)
    # It has come to rest there, not at zero.
    np.testing.assert_allclose(-np.trace(r.stresses[-1]) / 3 * 160.21766208, 5.0, atol=0.02)


@pytest.mark.parametrize("labels", [("Si1", "Si2"), ("Si_", "Si-b"), ("P_a", "P-a"), ("Si", "Si")])
def test_held_atoms_are_held_whatever_the_labels(output, tmp_path, labels):
    text = output("si2_labels")
    for old, new in zip(("Si1", "Si2"), labels, strict=True):
        text = re.sub(rf"\b{old}(?=\s)", new, text)
    np.testing.assert_array_equal(course_of_pw(text).free, [[False] * 3, [True] * 3])
    (tmp_path / "a.pwo").write_text(text)
    (r,) = read_relaxations(tmp_path)
    np.testing.assert_array_equal(r.initial.free, [[False] * 3, [True] * 3])


def test_a_restart_is_one_relaxation(files, tmp_path):
    for k, folder in enumerate(("a", "b"), 1):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "si2.pwo.xz").write_bytes((files / f"si2_restart{k}.pwo.xz").read_bytes())
    alone = inspect(tmp_path / "a").rejected
    assert any("not converged" in problem.text for problem in alone)
    found = inspect(tmp_path)
    assert not found.rejected
    (r,) = found.relaxations
    # Three steps and three: the restart begins where the next step would have been.
    assert len(r.frames) == 6
    assert np.all(np.diff(r.energies) < 0)
    assert r.converged
