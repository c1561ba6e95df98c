"""Which structures share a layout."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt_relax import batches, systems
from bptt_relax.batches import buckets as planning
from bptt_relax.neighbors import GraphSpec

SPEC = GraphSpec(3.8, 3.8)


def test_every_structure_is_in_one_bucket_that_holds_it(mixed):
    plan = batches.plan_buckets(mixed, SPEC, max_buckets=3)
    assert sorted(itertools.chain(*(bucket.members for bucket in plan))) == list(range(len(mixed)))
    for bucket in plan:
        for member in bucket.members:
            # Raises where it does not fit.
            positions, system = systems.prepare(mixed[member], SPEC, bucket.layout)
            assert positions.shape == (bucket.layout.num_atoms, 3)
            assert system.candidates.mask.sum() > 0
    sizes = [bucket.layout.num_atoms for bucket in plan]
    assert sizes == sorted(sizes, reverse=True)


def test_another_bucket_is_opened_only_where_it_pays(mixed, make_silicon_cell):
    few = batches.plan_buckets([mixed[0], mixed[3]], SPEC)
    assert len(few) == 1, "padding two small cells costs less than compiling for them"
    large = [make_silicon_cell((3, 3, 3), seed=k) for k in range(3)]
    plan = batches.plan_buckets([*large, *(mixed[0] for _ in range(60))], SPEC)
    assert [len(bucket.members) for bucket in plan] == [3, 60]
    assert len(batches.plan_buckets([*large, *(mixed[0] for _ in range(60))], SPEC, max_buckets=1)) == 1


def test_the_plan_is_said_in_one_line(mixed):
    plan = batches.plan_buckets(mixed[:1] * 3, SPEC)
    edges = plan[0].layout.capacity.edges
    wanted = f"3 structures in 1 bucket: 3 of up to 2 atoms and {edges} edges; padding adds 0%"
    assert batches.describe(plan) == wanted


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=7),
    compilation=st.sampled_from([0.0, 50.0, 500.0]),
    limit=st.integers(1, 4),
)
def test_no_division_is_cheaper(sizes, compilation, limit):
    sizes = sorted(sizes, reverse=True)
    entries = np.outer(sizes, np.ones(5))

    def cost(edges):
        parts = itertools.pairwise(edges)
        return sum((e - b) * planning._work(entries[b]) + compilation for b, e in parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "COMPILATION", compilation)
        found = planning._best_division(entries, np.ones(len(sizes), int), min(limit, len(sizes)))
    inner = range(1, len(sizes))
    every = [
        [0, *cuts, len(sizes)]
        for k in range(min(limit, len(sizes)))
        for cuts in itertools.combinations(inner, k)
    ]
    assert found[0] == 0
    assert found[-1] == len(sizes)
    assert cost(found) <= min(map(cost, every)) * (1 + 1e-12)


def test_large_sets_are_planned_in_pieces(mixed, monkeypatch):
    monkeypatch.setattr(planning, "_MAX_PIECES", 4)
    plan = batches.plan_buckets(mixed * 3, SPEC)
    assert sorted(itertools.chain(*(bucket.members for bucket in plan))) == list(range(3 * len(mixed)))


def test_misuse():
    with pytest.raises(ValueError, match="at least one structure"):
        batches.plan_buckets([], SPEC)
    with pytest.raises(ValueError, match="max_buckets must be positive, got 0"):
        batches.plan_buckets([None], SPEC, max_buckets=0)
