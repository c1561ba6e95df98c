import numpy as np
import pytest
from ase.build import bulk

from bptt_relax.io import matching, to_structure


@pytest.fixture
def alloy():
    atoms = bulk("Si", cubic=True).repeat(2)
    atoms.symbols[[3, 17, 40]] = "P"
    rng = np.random.default_rng(0)
    moved = atoms.copy()
    moved.positions += rng.normal(loc=[0.0, 0.1, 0.2], scale=0.05, size=(64, 3))  # with a drift
    return to_structure(atoms, "a"), to_structure(moved, "b")


def test_matching_structures_are_left_alone(alloy):
    found = matching.match(*alloy)
    assert found.identity
    assert not found.ambiguous
    np.testing.assert_array_equal(found.order, np.arange(64))


@pytest.mark.parametrize("within_species", [False, True])
def test_a_permutation_is_found(alloy, within_species):
    initial, relaxed = alloy
    rng = np.random.default_rng(1)
    shuffle = np.arange(64)
    if within_species:
        silicon = np.flatnonzero(initial.species == 14)
        shuffle[silicon] = rng.permutation(silicon)
    else:
        shuffle = rng.permutation(64)
    found = matching.match(initial, matching.reorder(relaxed, shuffle))
    assert not found.identity
    assert not found.ambiguous
    assert found.assigned < 0.5 < found.indexed
    np.testing.assert_array_equal(shuffle[found.order], np.arange(64))


def test_atoms_wrapped_into_the_cell_are_no_permutation(alloy):
    initial, relaxed = alloy
    wrapped = relaxed.positions % initial.cell[0, 0]
    assert matching.match(initial, relaxed._replace(positions=wrapped)).identity


def test_an_atom_that_really_moved_is_believed(alloy):
    initial, relaxed = alloy
    positions = relaxed.positions.copy()
    positions[5] += [1.3, 0.0, 0.0]
    assert matching.match(initial, relaxed._replace(positions=positions)).identity


def test_unrelated_structures_are_ambiguous(alloy):
    initial, relaxed = alloy
    rng = np.random.default_rng(2)
    scattered = relaxed._replace(positions=rng.uniform(0, 10, (64, 3)), species=initial.species[::-1].copy())
    assert matching.match(initial, scattered).ambiguous


def test_formula():
    assert matching.formula(np.array([15, 14, 14])) == "PSi2"
