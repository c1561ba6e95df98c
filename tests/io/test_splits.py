import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt_relax.io import Relaxation, Split, check_split, folds, leave_one_out, split
from bptt_relax.outcomes import InputError


def make(kinds: dict[str, int], twins: int = 1) -> list[Relaxation]:
    return [
        Relaxation(f"t{t}_{kind}_s{k}", f"{kind}_s{k}", kind, ())
        for kind, count in kinds.items()
        for k in range(count)
        for t in range(twins)
    ]


MANY = make({"V": 8, "sub_P": 8, "bc_O": 4}, twins=2)


def test_groups_stay_together_and_kinds_are_spread():
    division = split(MANY, validation=0.15, test=0.25, unseen=["bc_O"], seed=3)
    check_split(MANY, division)
    assert len(division.test) == 8
    assert len(division.validation) == 4
    assert len(division.unseen) == 8
    assert len(division.train) == 20
    for kind in ("V", "sub_P"):
        assert sum(kind in name for name in division.test) == 4


def test_the_same_seed_gives_the_same_split_whatever_the_order():
    shuffled = random.Random(0).sample(MANY, len(MANY))
    assert split(MANY, seed=1) == split(shuffled, seed=1)
    assert split(MANY, seed=1) != split(MANY, seed=2)


@given(st.integers(0, 5), st.integers(0, 1000))
def test_what_was_assigned_stays(extra, seed):
    few = make({"V": 4, "sub_P": 4})
    before = split(few, seed=seed)
    more = make({"V": 4 + extra, "sub_P": 4, "VV": extra})
    after = split(more, seed=seed, keep=before)
    check_split(more, after)
    for part in before._fields:
        assert set(getattr(before, part)) <= set(getattr(after, part))


def test_small_sets_are_told_what_to_do_instead():
    few = make({"V": 4}, twins=3)
    with pytest.raises(InputError, match=r"4 groups .* too few .*leave_one_out"):
        split(few)
    divisions = leave_one_out(few)
    assert len(divisions) == 4
    assert all(len(d.test) == 3 and len(d.train) == 9 for d in divisions)


def test_folds_test_everything_once():
    divisions = folds(MANY, 5, seed=1)
    tested = [name for d in divisions for name in d.test]
    assert sorted(tested) == sorted(r.name for r in MANY)
    for d in divisions:
        check_split(MANY, d)
        assert len(d.test) == 8
    with pytest.raises(InputError, match="30 folds need"):
        folds(MANY, 30)


def test_leakage_is_refused():
    names = sorted(r.name for r in MANY)
    by_frame = Split(
        train=tuple(n for n in names if n[1] == "0"),
        validation=(),
        test=tuple(n for n in names if n[1] == "1"),
    )
    with pytest.raises(InputError, match=r"share a parent.*V_s0 \(2 relaxations\) in test and train"):
        check_split(MANY, by_frame)
    with pytest.raises(InputError, match="unseen kinds .*'V'.* trained"):
        check_split(MANY, Split(("t0_V_s0", "t1_V_s0"), (), (), ("t0_V_s1", "t1_V_s1")))
    with pytest.raises(InputError, match="twice"):
        check_split(MANY, Split(("t0_V_s0",), (), ("t0_V_s0",)))
    with pytest.raises(InputError, match="names x, which is not in the data"):
        check_split(MANY, Split(("x",), (), ()))


def test_frames_passed_off_as_relaxations_are_refused():
    frames = [Relaxation("same", "same", "V", ()) for _ in range(10)]
    with pytest.raises(InputError, match="different names; doubled: same"):
        split(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unseen": ["sub_X"]}, "unseen kinds .*sub_X.* not in the data"),
        ({"test": 0.8, "validation": 0.3}, "must leave something"),
        ({"test": -0.1}, "must not be negative"),
        ({"unseen": ["V", "sub_P", "bc_O"]}, "0 groups"),
    ],
)
def test_impossible_wishes(options, message):
    with pytest.raises(InputError, match=message):
        split(MANY, **options)


def test_a_group_across_kinds_cannot_be_half_unseen():
    mixed = [*MANY, Relaxation("odd", "V_s0", "bc_O", ())]
    with pytest.raises(InputError, match=r"V_s0.*inside and outside"):
        split(mixed, unseen=["bc_O"])


def test_part_of():
    division = Split(("a",), (), ("b",))
    assert division.part_of("b") == "test"
    assert division.part_of("c") is None
