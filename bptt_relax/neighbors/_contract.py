"""What a graph is made of: what potentials ask for, padded lengths, candidates, and the graph itself."""

from typing import NamedTuple

from bptt_relax._types import Array, Cell, Positions

ROUNDING = 1e-3
"""Candidates reach this much further than they promise, angstrom, so that rounding (float32 too) misses no pair."""


class GraphSpec(NamedTuple):
    """What graph a potential asks for.

    Attributes:
        cutoff: edges are pairs closer than this, angstrom; zero for a potential that reads no graph (`NO_GRAPH`).
        bond_cutoff: bonds are edges shorter than this and angles are pairs of bonds that share their center,
            angstrom; zero for a potential without angles.
    """

    cutoff: float
    bond_cutoff: float = 0.0


NO_GRAPH = GraphSpec(0.0)
"""No edges at all: the lists are empty and never go stale."""


class Capacity(NamedTuple):
    """Padded lengths of the lists of one structure; equal capacities share one compilation."""

    candidates: int
    edges: int
    bonds: int
    angles: int


class Candidates(NamedTuple):
    """Directed pairs (center, neighbor, image) within cutoff + skin of the structure they were built for.

    Attributes:
        centers: (C,) int, ascending.
        neighbors: (C,) int.
        images: (C, 3) lattice translations of the neighbor, stored as floats.
        reverse: (C,) int, where the same pair stands seen from the other atom.
        mask: (C,) bool, False for padding.
        origin: (N, 3) positions the list was built for, angstrom.
        cell: (3, 3) cell the list was built for, angstrom.
        cutoff: (), angstrom.
        bond_cutoff: (), angstrom.
        skin: (), angstrom.
        edge_slots: (E,) int, 1..E; its length is the capacity for edges.
        bond_slots: (B,) int, likewise for bonds.
        angle_slots: (A,) int, likewise for angles.
    """

    centers: Array
    neighbors: Array
    images: Array
    reverse: Array
    mask: Array
    origin: Positions
    cell: Cell
    cutoff: Array
    bond_cutoff: Array
    skin: Array
    edge_slots: Array
    bond_slots: Array
    angle_slots: Array


class Graph(NamedTuple):
    """The edges, bonds and angles of a structure as it is now. Padding comes last in each list.

    Attributes:
        centers: (E,) int, ascending; the last atom where padded.
        neighbors: (E,) int.
        images: (E, 3) float lattice translations of the neighbor.
        reverse: (E,) int, the edge seen from the other atom.
        mask: (E,) bool.
        bonds: (B,) int, the edges that are bonds, by center; padded with the last edge slot.
        bond_reverse: (B,) int, the bond seen from the other atom.
        bond_mask: (B,) bool.
        angles: (A, 2) int, ordered pairs of different bonds (positions in ``bonds``) with the same center,
            ascending in the first.
        angle_mask: (A,) bool.
        overflow: () bool, this graph misses something and must not be used.
    """

    centers: Array
    neighbors: Array
    images: Array
    reverse: Array
    mask: Array
    bonds: Array
    bond_reverse: Array
    bond_mask: Array
    angles: Array
    angle_mask: Array
    overflow: Array
