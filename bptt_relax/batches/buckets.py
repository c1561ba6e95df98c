"""Which structures share one padded layout: each layout costs a compilation, each padded entry costs time."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bptt_relax import neighbors
from bptt_relax.neighbors import Capacity, GraphSpec
from bptt_relax.systems import Layout, Structure

MAX_BUCKETS = 6

COMPILATION = 15_000.0
"""What compiling one more program is worth, in entries of lists that are relaxed to the end.

CHGNet: a compilation takes as long as relaxing five cells of 32 atoms, which have some 3000 entries each.
"""

_MAX_PIECES = 200
"""Sets larger than this are divided at this many sizes only, as the planning takes time with the square of it."""


class Bucket(NamedTuple):
    """Structures that share a layout, and so one compiled program.

    Attributes:
        layout: padded sizes that hold every member.
        members: indices into the structures it was planned for, those with the most work first.
        work: entries of all lists that the members need.
        padded: entries of all lists that they get.
    """

    layout: Layout
    members: tuple[int, ...]
    work: float
    padded: float


def plan_buckets(
    structures: Sequence[Structure | Sequence[Structure]],
    spec: GraphSpec,
    *,
    skin: float = 1.0,
    headroom: float = 1.15,
    max_buckets: int = MAX_BUCKETS,
) -> list[Bucket]:
    """Sort structures into few buckets, such that padding and compilations together cost least.

    Structures are put in order of size and divided at the best places (dynamic programming), into as many buckets as
    pay for their compilations.

    Args:
        structures: on the host, of any sizes, elements and cells; for one that has several configurations, those.
        spec: the graph the potential asks for (``potential.graph``).
        skin: angstrom.
        headroom: as `neighbors.measure`; more where cells shrink.
        max_buckets: at most this many.

    Returns:
        Buckets, the one with the largest structures first. Every structure is in exactly one.

    Raises:
        ValueError: there are no structures, or ``max_buckets`` is not positive.
    """
    if not structures:
        raise ValueError("plan_buckets needs at least one structure")
    if max_buckets < 1:
        raise ValueError(f"max_buckets must be positive, got {max_buckets}")
    sizes = np.array([_size(structure, spec, skin, headroom) for structure in structures], float)
    order = np.argsort(-_work(sizes), kind="stable")
    pieces = np.array_split(order, min(len(order), _MAX_PIECES))
    largest = np.stack([sizes[piece].max(axis=0) for piece in pieces])
    counts = np.array([len(piece) for piece in pieces])
    edges = _best_division(largest, counts, min(max_buckets, len(pieces)))
    buckets = []
    for begin, end in itertools.pairwise(edges):
        members = np.concatenate(pieces[begin:end])
        most = sizes[members].max(axis=0)
        layout = Layout(int(most[0]), Capacity(*(int(length) for length in most[1:])))
        padded = len(members) * float(_work(most))
        buckets.append(Bucket(layout, tuple(members.tolist()), float(_work(sizes[members]).sum()), padded))
    return buckets


def describe(buckets: Sequence[Bucket]) -> str:
    """One line: ``9 structures in 2 buckets: 5 of up to 64 atoms and 3008 edges, 4 of ...; padding adds 7%``."""
    count = sum(len(bucket.members) for bucket in buckets)
    parts = ", ".join(
        f"{len(bucket.members)} of up to {_counted(bucket.layout.num_atoms, 'atom')} "
        f"and {bucket.layout.capacity.edges} edges"
        for bucket in buckets
    )
    extra = sum(bucket.padded for bucket in buckets) / sum(bucket.work for bucket in buckets) - 1
    return f"{_counted(count, 'structure')} in {_counted(len(buckets), 'bucket')}: {parts}; padding adds {extra:.0%}"


def _size(
    given: Structure | Sequence[Structure], spec: GraphSpec, skin: float, headroom: float
) -> tuple[int, ...]:
    """Numbers of atoms, candidates, edges, bonds and angles."""
    configurations = [given] if isinstance(given, Structure) else given
    lists = [neighbors.measure(s.positions, s.cell, s.pbc, spec, skin, headroom) for s in configurations]
    return len(configurations[0].species), *neighbors.common_capacity(lists)


def _work(sizes: np.ndarray) -> np.ndarray:
    """Entries of all lists, from (..., 5) numbers of atoms, candidates, edges, bonds and angles."""
    # A candidate is only looked at; everything else goes through the layers of the potential.
    return sizes @ np.array([1.0, 0.1, 1.0, 1.0, 1.0])


def _best_division(largest: np.ndarray, counts: np.ndarray, max_buckets: int) -> list[int]:
    """Where to divide pieces into consecutive buckets, from their (n, 5) sizes and (n,) numbers of structures."""
    n = len(counts)
    # cost[i, j]: pieces i to j - 1 in one bucket.
    cost = np.full((n + 1, n + 1), np.inf)
    total = np.concatenate([[0], np.cumsum(counts)])
    for i in range(n):
        together = _work(np.maximum.accumulate(largest[i:], axis=0))
        cost[i, i + 1 :] = together * (total[i + 1 :] - total[i]) + COMPILATION
    best = np.full((max_buckets + 1, n + 1), np.inf)
    best[0, 0] = 0.0
    begins = np.zeros((max_buckets + 1, n + 1), int)
    for k in range(1, max_buckets + 1):
        through = best[k - 1][:, None] + cost
        begins[k], best[k] = through.argmin(axis=0), through.min(axis=0)
    k, end = int(best[:, n].argmin()), n
    edges = [n]
    while k:
        end = int(begins[k, end])
        edges.append(end)
        k -= 1
    return edges[::-1]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
