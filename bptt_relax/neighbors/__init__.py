"""Neighbors that stay exact along a relaxation.

Two lists. `Candidates` are built on the host (vesin: any pbc, every periodic image, cells smaller than the
cutoff) out to cutoff + skin. `refresh` picks, on the device and at every step, the candidates that are inside
the cutoff *now* and, for potentials that need them, the short bonds and the angles between bonds: a `Graph`.
The graph is exact until some atom has moved further than skin/2 from where the candidates were built, or until
a capacity is exceeded; both set ``Graph.overflow``.

All choices are discrete and made on ``stop_gradient(positions)``; every potential multiplies its messages by an
envelope that is zero at the cutoff, so nothing is lost.
"""

from bptt_relax.neighbors._candidates import (
    build_candidates,
    capacity_of,
    common_capacity,
    find_pairs,
    grow,
    measure,
)
from bptt_relax.neighbors._contract import NO_GRAPH, ROUNDING, Candidates, Capacity, Graph, GraphSpec
from bptt_relax.neighbors._graph import count, edge_vectors, refresh

__all__ = [
    "NO_GRAPH",
    "ROUNDING",
    "Candidates",
    "Capacity",
    "Graph",
    "GraphSpec",
    "build_candidates",
    "capacity_of",
    "common_capacity",
    "count",
    "edge_vectors",
    "find_pairs",
    "grow",
    "measure",
    "refresh",
]
