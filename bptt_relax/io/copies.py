"""Which structures are copies of one another, whatever their drift and their place in the cell."""

from collections.abc import Sequence

import numpy as np

from bptt_relax.systems import Structure

SAME = 0.02
"""angstrom; structures that differ by less, index by index and up to a rigid shift, are copies."""


def first_copies(structures: Sequence[Structure]) -> list[int]:
    """For every structure the index of the first that it is a copy of: itself, if of none.

    Args:
        structures: of the same species in the same order, with cells of full rank.
    """
    cells = np.stack([s.cell for s in structures])
    fractional = np.stack([s.positions @ np.linalg.inv(s.cell) for s in structures])
    first = list(range(len(structures)))
    for k, structure in enumerate(structures):
        near = np.flatnonzero(np.all(np.abs(cells[:k] - cells[k]) < SAME, axis=(1, 2)))
        # A few atoms against the first one tell most structures apart; all atoms of all would take minutes.
        for some in (slice(1, 5), slice(None)):
            if not len(near):
                break
            d = fractional[near][:, some] - fractional[k][some]
            d = d - (fractional[near][:, :1] - fractional[k][:1])
            d = (d - np.where(structure.pbc, np.round(d), 0.0)) @ structure.cell
            if some.stop is None:
                d -= np.median(d, axis=1, keepdims=True)
            limit = SAME if some.stop is None else 4 * SAME
            near = near[np.linalg.norm(d, axis=2).max(axis=1, initial=0.0) < limit]
        if len(near):
            first[k] = first[near[0]]
    return first


def are_copies(a: Structure, b: Structure) -> bool:
    """Whether one structure is a copy of another."""
    return np.array_equal(a.species, b.species) and first_copies([a, b]) == [0, 0]
