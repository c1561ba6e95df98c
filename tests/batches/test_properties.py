"""What must not change where a relaxation ends: orientation, place, names of atoms and images, padding, company.

Twelve steps of FIRE from far off the minimum: every step counts, and nothing has contracted to a minimum that would
forgive an error on the way. Each structure is relaxed alone and in the slots of a batch.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bptt_relax.batches import Final
from bptt_relax.systems import Structure

STEPS = 12
seeds = st.integers(0, 2**16)
few = settings(max_examples=4)


@pytest.fixture(scope="module")
def ends(relax_all):
    """Where structures end after twelve steps: one by one, and in a batch of two slots. They must agree."""

    def ends(structures, *, moves_cell: bool = False, num_atoms: int = 8) -> list[Final]:
        options = {"moves_cell": moves_cell, "num_atoms": (num_atoms,), "num_steps": STEPS}
        alone = [relax_all([s], mapping="in_turn", workers=1, **options)[0] for s in structures]
        if not moves_cell:
            together = relax_all(structures, mapping="side_by_side", slots=2, **options)
            for one, other in zip(alone, together, strict=True):
                assert_same(one, other.structure.positions, other.energy, atol=1e-12)
        assert all(final.steps == STEPS for final in alone)
        return alone

    return ends


@pytest.fixture(scope="module")
def make_start(make_silicon_cell):
    """Four atoms far from their minimum, without any symmetry."""

    def make(seed: int, repeat=(1, 1, 2)) -> Structure:
        structure = make_silicon_cell(repeat, rattle=0.15, seed=seed)
        strain = np.eye(3) + 0.02 * np.array([[1.0, 0.3, -0.2], [0.0, -0.6, 0.4], [0.0, 0.0, 0.8]])
        return structure._replace(positions=structure.positions @ strain, cell=structure.cell @ strain)

    return make


def assert_same(final: Final, positions, energy, *, cell=None, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(final.structure.positions, positions, rtol=0, atol=atol)
    np.testing.assert_allclose(final.energy, energy, rtol=0, atol=1e-9)
    if cell is not None:
        np.testing.assert_allclose(final.structure.cell, cell, rtol=0, atol=atol)


@few
@given(seed=seeds, moves_cell=st.booleans())
def test_rotation(ends, make_start, seed, moves_cell):
    start = make_start(seed)
    turn = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    turned = start._replace(positions=start.positions @ turn, cell=start.cell @ turn)
    one, other = ends([start, turned], moves_cell=moves_cell)
    assert np.abs(one.structure.positions - start.positions).max() > 0.05
    assert_same(other, one.structure.positions @ turn, one.energy, cell=one.structure.cell @ turn)


@few
@given(seed=seeds, moves_cell=st.booleans())
def test_translation(ends, make_start, seed, moves_cell):
    start = make_start(seed)
    shift = np.random.default_rng(seed).normal(size=3)
    one, other = ends([start, start._replace(positions=start.positions + shift)], moves_cell=moves_cell)
    # A cell that deforms takes a shift along.
    deformed = shift @ np.linalg.solve(start.cell, one.structure.cell)
    assert_same(other, one.structure.positions + deformed, one.energy, cell=one.structure.cell)


@few
@given(seed=seeds)
def test_permutation(ends, make_start, seed):
    start = make_start(seed)
    order = np.random.default_rng(seed).permutation(len(start.species))
    one, other = ends([start, start._replace(positions=start.positions[order])])
    assert_same(other, one.structure.positions[order], one.energy)


@few
@given(seed=seeds, moves_cell=st.booleans())
def test_images(ends, make_start, seed, moves_cell):
    start = make_start(seed)
    images = np.random.default_rng(seed).integers(-2, 3, size=(len(start.species), 3))
    elsewhere = start._replace(positions=start.positions + images @ start.cell)
    one, other = ends([start, elsewhere], moves_cell=moves_cell)
    moved = one.structure.positions + images @ one.structure.cell
    assert_same(other, moved, one.energy, cell=one.structure.cell)


@few
@given(seed=seeds, axis=st.integers(0, 2))
def test_supercell(ends, make_start, seed, axis):
    start = make_start(seed)
    repeat = np.ones(3, int)
    repeat[axis] = 2
    twice = start._replace(
        **{name: np.concatenate([getattr(start, name)] * 2) for name in ("species", "masses", "free")},
        positions=np.concatenate([start.positions, start.positions + start.cell[axis]]),
        cell=start.cell * repeat[:, None],
    )
    one, two = ends([start, twice])
    final = one.structure.positions
    assert_same(two, np.concatenate([final, final + start.cell[axis]]), 2 * one.energy)


@few
@given(seed=seeds)
def test_padding(ends, make_start, seed):
    start = make_start(seed)
    (one,), (other,) = ends([start]), ends([start], num_atoms=12)
    assert_same(other, one.structure.positions, one.energy)


@few
@given(seed=seeds, data=st.data())
def test_company_and_order(ends, make_start, seed, data):
    starts = [
        make_start(seed + k, repeat) for k, repeat in enumerate([(1, 1, 2), (1, 1, 1), (1, 3, 1), (2, 2, 1)])
    ]
    order = data.draw(st.permutations(range(len(starts))))
    found, shuffled = ends(starts), ends([starts[k] for k in order])
    for place, k in enumerate(order):
        final = found[k]
        assert_same(shuffled[place], final.structure.positions, final.energy, atol=1e-12)
