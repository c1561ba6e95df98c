import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from bptt_relax.io import geometry, to_structure


def test_heights_of_an_oblique_cell():
    cell = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    np.testing.assert_allclose(geometry.heights(cell), [np.sqrt(2), 1.0, 3.0])


def test_displacement_across_a_boundary_and_without_the_cells_change():
    a = to_structure(Atoms("Si", positions=[[0.1, 0, 0]], cell=[5, 5, 5], pbc=True), "a")
    b = a._replace(positions=np.array([[4.9, 0, 0]]))
    np.testing.assert_allclose(geometry.displacement(a, b), [[-0.2, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(geometry.displacement(a, b, minimum_image=False), [[4.8, 0, 0]])
    stretched = a._replace(positions=a.positions * 1.1, cell=a.cell * 1.1)
    np.testing.assert_allclose(geometry.displacement(a, stretched), 0.0, atol=1e-12)


def test_open_axes_have_no_images():
    a = to_structure(Atoms("Si", positions=[[0.1, 0, 0]], cell=[5, 5, 5], pbc=[False, True, True]), "a")
    b = a._replace(positions=np.array([[4.9, 0, 0]]))
    np.testing.assert_allclose(geometry.displacement(a, b), [[4.8, 0, 0]])


def test_pairs_see_images_of_small_cells():
    silicon = to_structure(bulk("Si", a=5.43), "x")
    i, j, ratio = geometry.pairs_within(silicon, 1.2)
    assert len(i) == 8  # four neighbors of each of two atoms
    np.testing.assert_allclose(ratio, 5.43 * np.sqrt(3) / 4 / (2 * 1.11))


@pytest.mark.parametrize("gap", [0.0, 6.0])
def test_fragments(gap):
    positions = np.array([[0, 0, 0], [2.3, 0, 0], [4.6 + gap, 0, 0], [6.9 + gap, 0, 0], [9.2 + gap, 0, 0]])
    pieces = geometry.fragments(to_structure(Atoms("Si5", positions=positions), "chain"))
    assert [list(p) for p in pieces] == ([[0, 1, 2, 3, 4]] if gap == 0 else [[2, 3, 4], [0, 1]])
