"""Do the atoms of two structures correspond index by index, and if not, which permutation makes them?"""

from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from scipy.optimize import linear_sum_assignment

from bptt_relax.io import geometry
from bptt_relax.systems import Structure

FAR = 1.0
"""angstrom; an atom further than this from where its index says is looked at more closely."""
SUSPICIOUS = 3.0
"""How many times shorter an assignment must be than the indices' own to be believed over them."""


class Matching(NamedTuple):
    """How the atoms of a relaxed structure correspond to those of the initial one.

    Attributes:
        order: (n,) indices into the relaxed structure, so that ``relaxed.positions[order]`` matches the initial.
        identity: the structures already match index by index.
        indexed: largest displacement by index, angstrom; infinite where species differ.
        assigned: largest displacement after reordering, angstrom.
        ambiguous: no assignment is short enough to be believed.
    """

    order: np.ndarray
    identity: bool
    indexed: float
    assigned: float
    ambiguous: bool


def formula(species: np.ndarray) -> str:
    """Chemical formula for messages, e.g. Si31P."""
    return Formula.from_list([chemical_symbols[z] for z in species]).format("hill")


def same_atoms(initial: Structure, relaxed: Structure) -> bool:
    """Whether two structures have the same numbers of the same species, in whatever order."""
    return len(initial.species) == len(relaxed.species) and np.array_equal(
        np.sort(initial.species), np.sort(relaxed.species)
    )


def match(initial: Structure, relaxed: Structure) -> Matching:
    """Find out whether indices match and, if they don't, the shortest assignment of atoms of a species.

    Identical atoms that changed places look the same whether the file was sorted or they really did; the indices
    are believed unless the assignment is `SUSPICIOUS` times shorter.

    Args:
        initial: the start.
        relaxed: the same atoms in any order.
    """
    n = len(initial.species)
    identity = np.arange(n)
    same_order = np.array_equal(initial.species, relaxed.species)
    if same_order:
        indexed = _largest(initial, relaxed, identity)
        if indexed < FAR:
            return Matching(identity, True, indexed, indexed, False)
    else:
        indexed = float("inf")
    order = _assign(initial, relaxed)
    assigned = _largest(initial, relaxed, order)
    believed = assigned < FAR and (not same_order or SUSPICIOUS * assigned < indexed)
    if same_order and not believed:
        return Matching(identity, True, indexed, assigned, False)
    return Matching(order, False, indexed, assigned, not believed)


def reorder(structure: Structure, order: np.ndarray) -> Structure:
    """The structure with its atoms in another order.

    Args:
        structure: on the host.
        order: (n,) indices.
    """
    return structure._replace(
        species=structure.species[order],
        masses=structure.masses[order],
        positions=structure.positions[order],
        free=structure.free[order],
    )


def _assign(initial: Structure, relaxed: Structure) -> np.ndarray:
    """Shortest assignment within each species; a rigid drift is found on the way."""
    s0 = initial.positions @ np.linalg.inv(initial.cell)
    s1 = relaxed.positions @ np.linalg.inv(relaxed.cell)
    order = np.arange(len(s0))
    drift = np.zeros(3)
    for _ in range(2):
        for z in np.unique(initial.species):
            here, there = np.flatnonzero(initial.species == z), np.flatnonzero(relaxed.species == z)
            d = s1[there][None, :, :] - drift - s0[here][:, None, :]
            d -= np.where(initial.pbc, np.round(d), 0.0)
            _, columns = linear_sum_assignment(np.sum((d @ relaxed.cell) ** 2, axis=-1))
            order[here] = there[columns]
        d = s1[order] - s0
        d -= np.where(initial.pbc, np.round(d), 0.0)
        drift = np.median(d, axis=0)
    return order


def _largest(initial: Structure, relaxed: Structure, order: np.ndarray) -> float:
    d = geometry.displacement(initial, reorder(relaxed, order))
    return float(np.linalg.norm(d - np.median(d, axis=0), axis=1).max())
