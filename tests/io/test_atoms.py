import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixedLine, FixedPlane, FixScaled

from bptt_relax.io import atoms as conversion
from bptt_relax.io.atoms import LabelKeys, labels, to_atoms, to_structure


def test_round_trip_keeps_everything():
    atoms = bulk("Si", cubic=True)
    atoms.positions += 20.0  # outside of the cell: must not be wrapped
    atoms.set_masses([28.0] * 8)
    atoms.set_constraint([FixAtoms([1]), FixCartesian(2, [True, False, True])])
    structure = to_structure(atoms, "x")
    back = to_atoms(structure)
    np.testing.assert_array_equal(back.positions, atoms.positions)
    np.testing.assert_array_equal(back.cell.array, atoms.cell.array)
    np.testing.assert_array_equal(back.get_masses(), 28.0)
    np.testing.assert_array_equal(to_structure(back, "x").free, structure.free)
    assert structure.free.sum() == 24 - 3 - 2
    np.testing.assert_array_equal(structure.free[2], [False, True, False])


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, False), (True, False, False)])
def test_missing_vectors_of_open_axes_are_completed(pbc):
    cell = np.diag(np.where(pbc, 5.0, 0.0))
    atoms = Atoms("Si2", positions=[[0, 0, 0], [1, 2, 7]], cell=cell, pbc=pbc)
    structure = to_structure(atoms, "slab")
    assert np.linalg.matrix_rank(structure.cell) == 3
    if not pbc[2]:
        assert np.linalg.norm(structure.cell[2]) == pytest.approx(7 + conversion.VACUUM)
    np.testing.assert_array_equal(structure.pbc, pbc)


def test_missing_vector_of_a_periodic_axis_stays_missing():
    structure = to_structure(Atoms("Si", cell=[5, 5, 0], pbc=True), "x")
    assert np.linalg.matrix_rank(structure.cell) == 2


def test_left_handed_cell_is_kept():
    atoms = bulk("Si", cubic=True)
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(to_structure(atoms, "x").cell) < 0


def test_forces_are_read_raw_despite_constraints():
    atoms = bulk("Si")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, free_energy=-1.5, forces=np.ones((2, 3)))
    atoms.set_constraint(FixAtoms([0]))
    read = labels(atoms)
    np.testing.assert_array_equal(read.forces, 1.0)
    assert (read.energy, read.energy_kind) == (-1.5, "free")


def test_stress_has_ases_order():
    stress = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    atoms = to_atoms(to_structure(bulk("Si"), "x"), stress=stress)
    np.testing.assert_array_equal(atoms.get_stress(), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(labels(atoms).stress, stress)


def test_labels_under_other_keys():
    atoms = molecule("H2O")
    atoms.arrays["dft_forces"] = np.full((3, 3), 2.0)
    atoms.info["dft_energy"] = -3.0
    assert labels(atoms).forces is None
    assert conversion.possible_forces(atoms) == ["dft_forces"]
    read = labels(atoms, LabelKeys("dft_energy", "dft_forces"))
    assert read.energy == -3.0
    np.testing.assert_array_equal(read.forces, 2.0)
    with pytest.raises(KeyError, match="nowhere"):
        labels(atoms, LabelKeys(forces="nowhere"))


def test_constraints_that_are_not_components_are_named():
    atoms = bulk("Si")  # oblique: fixing one fractional coordinate fixes no Cartesian one
    atoms.set_constraint([FixBondLength(0, 1), FixScaled(0, [True, False, False], cell=atoms.cell)])
    bonds, scaled = conversion.unsupported_constraints(atoms)
    assert "constraint FixBondLengths can't be kept" in bonds
    assert "constraint FixScaled can't be kept" in scaled
    assert conversion.free_components(atoms).all()
    cubic = bulk("Si", cubic=True)
    cubic.set_constraint(FixScaled(0, [True, False, False], cell=cubic.cell))
    np.testing.assert_array_equal(conversion.free_components(cubic)[0], [False, True, True])


@pytest.mark.parametrize(
    ("held", "free"),
    [
        ([False, False, True], [True, True, False]),  # along c, which is z
        ([True, True, False], [False, False, True]),  # in the plane of a and b
        ([True, True, True], [False, False, False]),
        ([False, True, False], [True, False, True]),  # a and c, which are x and z, may move
    ],
)
def test_axes_of_a_hexagonal_cell_are_held(held, free):
    """Flags of a POSCAR belong to lattice vectors, not to x, y and z."""
    atoms = bulk("Mg")
    np.testing.assert_allclose(atoms.cell.array[0, 1:], 0.0, atol=1e-12)
    atoms.set_constraint(FixScaled(0, held, cell=atoms.cell))
    np.testing.assert_array_equal(conversion.free_components(atoms), [free, [True] * 3])
    assert conversion.unsupported_constraints(atoms) == []


def test_an_axis_askew_is_refused():
    atoms = bulk("Mg")
    atoms.set_constraint(FixScaled(0, [True, False, False], cell=atoms.cell))  # b and c span no plane of axes
    (sentence,) = conversion.unsupported_constraints(atoms)
    assert "a lattice vector that is held here is none" in sentence


def test_lines_and_planes_along_axes():
    atoms = bulk("Si", cubic=True)
    atoms.set_constraint([FixedPlane(0, [0, 0, 2.0]), FixedLine(1, [0, 1, 0]), FixedLine(2, [1, 1, 0])])
    free = conversion.free_components(atoms)
    np.testing.assert_array_equal(free[:3], [[True, True, False], [False, True, False], [True] * 3])
    assert ["FixedLine" in text for text in conversion.unsupported_constraints(atoms)] == [True]
