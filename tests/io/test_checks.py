"""The checks themselves; tests/faults/test_inputs.py asks what users get to see."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from bptt_relax.io import ReadOptions, Relaxation, check, to_structure
from bptt_relax.io.checks import cell_change, largest_jump


def fatal(r, **options):
    return [p.text for p in check(r, ReadOptions(**options)) if p.fatal]


def notes(r, **options):
    return [p.text for p in check(r, ReadOptions(**options)) if not p.fatal]


def of(*atoms: Atoms, **fields) -> Relaxation:
    return Relaxation(
        "x", "x", "x", tuple(to_structure(a, "x") for a in atoms), info={"cell_given": True}, **fields
    )


def test_bundled_data_passes(defects):
    for r in defects.relaxations:
        assert fatal(r, relax_cell=False) == []


def test_cell_change_tells_strain_from_rotation():
    a = bulk("Si", cubic=True)
    strained, rotated = a.copy(), a.copy()
    strained.set_cell(a.cell.array * [1.0, 1.0, 1.03], scale_atoms=True)
    rotated.rotate(10, "z", rotate_cell=True)
    s, r = to_structure(strained, "s"), to_structure(rotated, "r")
    assert cell_change(to_structure(a, "a"), s) == pytest.approx((0.03, 0.0), abs=1e-9)
    assert cell_change(to_structure(a, "a"), r) == pytest.approx((0.0, np.radians(10)), abs=1e-7)
    assert fatal(of(a, strained)) == []
    assert "cell changes by 3.0%" in fatal(of(a, strained), relax_cell=False)[0]
    assert "rotated by 10.0 degrees" in fatal(of(a, rotated))[0]


def test_left_handed_cells_pass_with_a_note():
    a = bulk("Si", cubic=True)
    a.set_cell(a.cell.array[[1, 0, 2]])
    assert fatal(of(a, a)) == []
    assert any("left-handed" in text for text in notes(of(a, a)))


def test_mixed_periodicity_passes():
    slab = bulk("Si", cubic=True)
    slab.positions[0] += [0, 0, -3.0]  # outside of the cell along the open axis
    slab.cell[2] = 0.0
    slab.pbc = [True, True, False]
    assert fatal(of(slab, slab)) == []


def test_a_lonely_atom_is_only_a_note():
    a = Atoms("Si2", positions=[[0, 0, 0], [9, 0, 0]])
    r = Relaxation("x", "x", "x", (to_structure(a, "x"),) * 2)
    assert fatal(r) == []
    assert any("has no neighbors" in text for text in notes(r))


def test_a_molecule_in_a_box_is_no_bulk():
    a = Atoms("H2", positions=[[0, 0, 0], [0.74, 0, 0]], cell=[12, 12, 12], pbc=False)
    assert fatal(of(a, a)) == []
    assert any("the cell that is given is not used" in text for text in notes(of(a, a)))


def test_fixed_atoms():
    a = bulk("Si", cubic=True)
    structure = to_structure(a, "x")
    some = structure._replace(free=np.arange(24).reshape(8, 3) > 4)
    none = structure._replace(free=np.zeros((8, 3), bool))
    assert any(
        "2 atoms are fixed wholly or in part" in t for t in notes(Relaxation("x", "x", "x", (some, some)))
    )
    assert any("all atoms are fixed" in t for t in fatal(Relaxation("x", "x", "x", (none, none))))


def test_jumps_count_from_step_to_step(relaxation):
    whole = largest_jump(relaxation)
    ends = largest_jump(relaxation._replace(frames=(relaxation.initial, relaxation.relaxed)))
    assert 0 < whole <= ends


def test_already_relaxed_is_fine(relaxation):
    still = relaxation._replace(
        frames=(relaxation.relaxed,) * 2,
        forces=np.zeros_like(relaxation.forces[:2]),
        energies=relaxation.energies[-1:].repeat(2),
        stresses=None,
    )
    assert fatal(still) == []
