import numpy as np
import pytest
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from bptt_relax.datasets import prototypes
from bptt_relax.datasets.prototypes import PROBE, REPLAY


def test_what_is_held_to_is_not_what_judges():
    assert not {c.numbers for c in PROBE} & {c.numbers for c in REPLAY}
    assert len({c.formula for c in PROBE}) == len(PROBE) >= 20
    assert (
        {c.bonding for c in PROBE} == {c.bonding for c in REPLAY} == {"metal", "ionic", "covalent", "oxide"}
    )


@pytest.mark.parametrize("crystal", [*PROBE, *REPLAY], ids=lambda c: c.formula)
def test_crystals_are_crystals(crystal):
    atoms = prototypes.atoms(crystal)
    assert 2 <= len(atoms) <= 6
    assert set(atoms.numbers.tolist()) == crystal.numbers
    assert atoms.pbc.all()
    i, j, d = neighbor_list("ijd", atoms, 4.7)
    # Every atom has neighbors, and none closer than bonds are.
    assert set(i) == set(range(len(atoms)))
    assert np.all(d > 0.75 * (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]]))


def test_rutile_and_perovskite_have_their_bonds():
    by_formula = {c.formula: c for c in PROBE}
    rutile = prototypes.atoms(by_formula["TiO2"])
    i, d = neighbor_list("id", rutile, {("Ti", "O"): 2.1})
    assert np.bincount(i, minlength=6).tolist() == [6, 6, 3, 3, 3, 3]
    perovskite = prototypes.atoms(by_formula["SrTiO3"])
    i, d = neighbor_list("id", perovskite, {("Ti", "O"): 2.1, ("Sr", "O"): 2.9})
    assert np.bincount(i, minlength=5).tolist() == [12, 6, 6, 6, 6]


def test_only_what_a_model_covers_and_was_not_trained_on():
    chosen = prototypes.covered(PROBE, (12, 8, 11, 17), {frozenset({11, 17})})
    assert {c.formula for c in chosen} == {"Mg", "MgO", "Na"}
    assert len(prototypes.covered(PROBE, (), set())) == len(PROBE)
