"""Distances on the host that checks and acceptance rules are made of."""

from collections import Counter

import numpy as np
from ase.data import covalent_radii

from bptt_relax import neighbors
from bptt_relax.systems import Structure

ABSURD = 1e6
"""angstrom; nothing that is computed atom by atom is a tenth of a millimeter wide."""


def heights(cell: np.ndarray) -> np.ndarray:
    """Distances between opposite faces of a cell.

    Args:
        cell: (3, 3) angstrom, full rank.

    Returns:
        (3,) angstrom.
    """
    return 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def measurable(structure: Structure) -> bool:
    """Whether distances mean anything: all numbers finite and no larger than `ABSURD`, a cell with a volume."""
    # Also false where one is NaN.
    if not all(np.all(np.abs(numbers) < ABSURD) for numbers in (structure.cell, structure.positions)):
        return False
    lengths = np.linalg.norm(structure.cell, axis=1)
    return bool(abs(np.linalg.det(structure.cell)) > 1e-6 * np.prod(lengths))


def fractional_displacement(
    initial: Structure, relaxed: Structure, *, minimum_image: bool = True
) -> np.ndarray:
    """Index-matched displacement in fractional coordinates, so that a change of the cell isn't counted.

    Args:
        initial: where the atoms were.
        relaxed: where they went.
        minimum_image: bring periodic components into [-1/2, 1/2].

    Returns:
        (n, 3).
    """
    s = relaxed.positions @ np.linalg.inv(relaxed.cell) - initial.positions @ np.linalg.inv(initial.cell)
    return s - np.where(initial.pbc, np.round(s), 0.0) if minimum_image else s


def displacement(initial: Structure, relaxed: Structure, *, minimum_image: bool = True) -> np.ndarray:
    """Index-matched displacement in the relaxed cell, drift included.

    Args:
        initial: where the atoms were.
        relaxed: where they went.
        minimum_image: take the nearest periodic image of every atom.

    Returns:
        (n, 3) angstrom.
    """
    return fractional_displacement(initial, relaxed, minimum_image=minimum_image) @ relaxed.cell


def pairs_within(structure: Structure, factor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of atoms closer than ``factor`` times the sum of their covalent radii, images included.

    Args:
        structure: on the host.
        factor: dimensionless.

    Returns:
        first atom (P,), second atom (P,), distance over the sum of covalent radii (P,).
    """
    radii = covalent_radii[structure.species]
    cutoff = 2 * factor * float(radii.max())
    i, j, S = neighbors.find_pairs(structure.positions, structure.cell, structure.pbc, cutoff)
    lengths = np.linalg.norm(structure.positions[j] + S @ structure.cell - structure.positions[i], axis=1)
    ratio = lengths / (radii[i] + radii[j])
    close = ratio < factor
    return i[close], j[close], ratio[close]


def bond_across(structure: Structure) -> tuple[int, int] | None:
    """A pair of atoms that would be bonded if the cell were periodic, and is not bonded inside it; None without one.

    Args:
        structure: on the host; its own periodicity is not looked at.
    """
    bonds = [
        Counter(
            zip(
                *(atoms.tolist() for atoms in pairs_within(structure._replace(pbc=pbc), 1.2)[:2]), strict=True
            )
        )
        for pbc in (np.ones(3, bool), np.zeros(3, bool))
    ]
    # Counted, as two atoms may be bonded inside the cell and across its boundary too.
    return next(iter(bonds[0] - bonds[1]), None)


def fragments(structure: Structure, factor: float = 1.3) -> list[np.ndarray]:
    """Pieces of a structure that no bond connects, the largest first.

    Args:
        structure: on the host.
        factor: two atoms are bonded when closer than this times the sum of their covalent radii.

    Returns:
        Indices of the atoms of each piece.
    """
    i, j, _ = pairs_within(structure, factor)
    label = np.arange(len(structure.species))
    # Labels fall to the smallest index of their piece; each sweep at least extends every piece by one bond.
    while True:
        lower = label.copy()
        np.minimum.at(lower, i, label[j])
        if np.array_equal(lower, label):
            break
        label = lower
    pieces = [np.flatnonzero(label == value) for value in np.unique(label)]
    return sorted(pieces, key=len, reverse=True)
