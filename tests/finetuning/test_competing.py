"""Starts with competing minima: how they are made, who competes, and which are taken; two wells as the model."""

import numpy as np
import pytest

from bptt_relax import datasets
from bptt_relax.finetuning.competing import Ending, candidates, competing, num_minima, select
from bptt_relax.finetuning.structures import distance_from_defect


@pytest.fixture(scope="module")
def relaxations():
    found = datasets.load("silicon-defects").relaxations
    return [next(r for r in found if r.kind == kind) for kind in ("V", "split110_Si", "sub_P")]


@pytest.fixture(scope="module")
def starts(relaxations):
    return [start for r in relaxations for start in candidates(r)]


def endings(starts, hit):
    """Ends of a model that finds the reference's minimum for some starts, for the others one an angstrom away."""
    found = {}
    for start in starts:
        end = start.relaxed.positions.copy()
        if not hit(start):
            end[0, 0] += 1.0
        found[start.name] = Ending(end, hit(start))
    return found


def test_starts_lie_on_and_near_the_way_and_all_ask_for_its_end(relaxations, starts):
    vacancy = relaxations[0]
    mine = {start.name: start for start in starts if start.info["of"] == vacancy.name}
    assert len(mine) == 16
    assert all(np.array_equal(s.relaxed.positions, vacancy.relaxed.positions) for s in mine.values())
    assert {(s.group, s.kind) for s in mine.values()} == {(vacancy.group, vacancy.kind)}
    np.testing.assert_array_equal(mine[f"{vacancy.name}@0"].initial.positions, vacancy.initial.positions)
    half = mine[f"{vacancy.name}@0.5"].initial.positions
    np.testing.assert_allclose(half, 0.5 * (vacancy.initial.positions + vacancy.relaxed.positions))

    rattled = mine[f"{vacancy.name}@0.5+rattled"].initial.positions - half
    assert 0.08 < rattled.std() < 0.12
    # Squeezed and spread are mirror images, and move the neighbors of the defect alone.
    out = mine[f"{vacancy.name}@0.5+spread"].initial.positions - half
    np.testing.assert_allclose(
        mine[f"{vacancy.name}@0.5+squeezed"].initial.positions - half, -out, atol=1e-12
    )
    moved = np.linalg.norm(out, axis=1)
    near = distance_from_defect(vacancy)
    assert 3 <= np.sum(moved > 0) <= 12
    assert moved[near > 4.0].max() == 0
    assert moved.max() < 0.35


def test_the_same_starts_come_out_each_time(relaxations):
    one, other = (candidates(relaxations[1]) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(a.initial.positions, b.initial.positions)


def test_held_atoms_stay_where_they_are(relaxations):
    free = relaxations[0].initial.free.copy()
    free[3] = False
    frames = tuple(frame._replace(free=free) for frame in relaxations[0].frames)
    for start in candidates(relaxations[0]._replace(frames=frames), fractions=(0.0,)):
        np.testing.assert_array_equal(start.initial.positions[3], frames[0].positions[3])


def test_those_compete_whose_starts_part(relaxations, starts):
    vacancy, split, substitution = (r.name for r in relaxations)

    def hit(start):
        # The vacancy always arrives, the phosphorus never, and the interstitial only from nearby.
        if start.info["of"] == split:
            return "@0.75" in start.name
        return start.info["of"] == vacancy

    found = endings(starts, hit)
    assert competing(starts, found) == [split]
    minima = {
        r.name: num_minima([found[s.name] for s in starts if s.info["of"] == r.name], r.relaxed.cell)
        for r in relaxations
    }
    assert minima == {vacancy: 1, split: 2, substitution: 1}


def test_a_rigid_shift_and_another_image_are_no_other_minimum(relaxations):
    reference = relaxations[0].relaxed
    shifted = reference.positions + 0.7
    image = reference.positions.copy()
    image[2] += reference.cell[1]
    ends = [Ending(x, True) for x in (reference.positions, shifted, image)]
    assert num_minima(ends, reference.cell) == 1


def test_starts_are_taken_evenly_whatever_the_model_does_with_them(relaxations, starts):
    vacancy, split, _ = (r.name for r in relaxations)
    chosen = select(starts, [vacancy, split], 9)
    assert [start.info["of"] for start in chosen] == [vacancy, split] * 4 + [vacancy]
    assert select(starts, [vacancy, split], 20)[:9] == chosen
    assert len(select(starts, [vacancy, split], 100)) == 32
    assert select(starts, [], 100) == []
