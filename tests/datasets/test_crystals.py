"""The split of the bundled crystals: fixed, without leaks, and each crystal tested on once."""

import numpy as np
import pytest

from bptt_relax import datasets
from bptt_relax.datasets import crystals
from bptt_relax.outcomes import InputError


@pytest.fixture(scope="module")
def relaxations():
    return datasets.load("crystals").relaxations


def test_each_crystal_is_tested_once_and_never_elsewhere(relaxations):
    kind = {r.name: r.kind for r in relaxations}
    tested = []
    for fold in range(crystals.FOLDS):
        division = crystals.split(relaxations, fold=fold)
        parts = [{kind[name] for name in part} for part in division[:3]]
        assert all(parts)
        assert len(set().union(*parts)) == sum(map(len, parts))
        assert sum(map(len, division)) == len(relaxations)
        tested += parts[2]
    assert sorted(tested) == sorted(crystals.KINDS)


def test_the_rule_does_not_move(relaxations):
    division = crystals.split(relaxations)
    assert "x_Si_dia_relax_s0" in division.test
    assert "x_SiO2_quartz_vcrelax_s0" in division.test
    assert "x_BAs_zb_vcrelax_s0" in division.validation
    fewer = crystals.split(relaxations[::2])
    assert all(set(part) <= set(whole) for part, whole in zip(fewer, division, strict=True))


def test_what_is_no_crystal_and_no_fold_is_named(relaxations):
    with pytest.raises(InputError, match="no fold 3"):
        crystals.split(relaxations, fold=3)
    with pytest.raises(InputError, match="V is not part of the crystals"):
        crystals.split([relaxations[0]._replace(kind="V")])


def test_atoms_alone_start_and_end_in_one_cell(relaxations):
    found = crystals.in_given_cells(relaxations)
    assert {r.kind for r in found} >= set(crystals.MOVABLE)
    assert sum(r.info["mode"] == "relax" for r in found) == 4
    for r in found:
        np.testing.assert_array_equal(r.initial.cell, r.relaxed.cell)
    crystals.split([*relaxations, *(r for r in found if r.info["mode"] != "relax")])
