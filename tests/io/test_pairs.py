import numpy as np
import pytest

from bptt_relax.io import at_relaxed_cell, read_pairs, read_relaxations, to_pairs, write_relaxations
from bptt_relax.neighbors import GraphSpec
from bptt_relax.outcomes import InputError

SPEC = GraphSpec(4.0)


def test_pairs_share_one_layout(tmp_path, defects):
    some = defects.select(["p32_V_s0", "p32_bc_O_s0"])  # 31 and 33 atoms
    write_relaxations(tmp_path / "all.extxyz", some)
    pairs = read_pairs(tmp_path, SPEC, skin=0.6)
    for r, pair in zip(read_relaxations(tmp_path), pairs, strict=True):
        n = len(r.initial.species)
        np.testing.assert_allclose(pair.initial[:n], r.initial.positions)
        np.testing.assert_allclose(pair.relaxed[:n], r.relaxed.positions)
        assert pair.system.mask.sum() == n
    shapes = [[x.shape for x in pair.system.candidates] for pair in pairs]
    assert shapes[0] == shapes[1]


def test_a_cell_that_changes_is_refused_or_taken_at_its_end(files):
    (r,) = read_relaxations(files / "si2_vcrelax.pwo.xz")
    with pytest.raises(InputError, match=r"si2_vcrelax.*: cell changes by .*%, .*at_relaxed_cell"):
        to_pairs([r], SPEC)
    fixed = at_relaxed_cell(r)
    for free, one in ((True, r), (False, fixed)):
        (pair,) = to_pairs([one], SPEC, free_cells=True)
        assert (pair.relaxed_cell is not None) == free
        np.testing.assert_allclose(pair.system.cell, one.initial.cell)
        np.testing.assert_allclose(pair.relaxed_cell if free else pair.system.cell, r.relaxed.cell)
    (pair,) = to_pairs([fixed], SPEC)
    np.testing.assert_allclose(pair.system.cell, r.relaxed.cell)
    inverse = np.linalg.inv
    np.testing.assert_allclose(
        fixed.initial.positions @ inverse(fixed.initial.cell), r.initial.positions @ inverse(r.initial.cell)
    )


def test_nothing_to_pair():
    with pytest.raises(InputError, match="no relaxations"):
        to_pairs([], SPEC)
