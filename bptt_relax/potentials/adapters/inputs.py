"""What an adapted function may ask for. It gets the inputs that its signature names, by name.

Padding never reaches it as a coincidence: padded atoms stand far from everything and from each other, with species 0;
padded edges are twice as long as the cutoff. A sum over edges that fades at the cutoff, or over atoms that the adapter
masks, needs no mask of its own; everything else must use ``mask`` or ``edge_mask``.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp

from bptt_relax._types import Array, Cell, Positions
from bptt_relax.neighbors import Graph
from bptt_relax.systems import System
from bptt_relax.trees import safe_norm

OFFERED: dict[str, str] = {
    "positions": "(N, 3) angstrom",
    "R": "(N, 3) angstrom, jax-md's name for positions",
    "cell": "(3, 3) angstrom, rows are lattice vectors",
    "box": "(3, 3) angstrom, columns are lattice vectors, as jax-md wants it",
    "neighbor": "jax-md's neighbor list, every pair in both directions",
    "perturbation": "(3, 3), what jax-md multiplies the vectors of pairs with: stress is the derivative by it",
    "vectors": "(E, 3) angstrom, from each edge's center to its neighbor",
    "distances": "(E,) angstrom",
    "centers": "(E,) atoms that edges start from, ascending; also called receivers",
    "neighbors": "(E,) atoms they lead to; also called senders",
    "receivers": "(E,) the same as centers",
    "senders": "(E,) the same as neighbors",
    "edge_mask": "(E,) bool, False where padded",
    "species": "(N,) atomic numbers, 0 where padded",
    "mask": "(N,) bool, False where padded",
    "pbc": "(3,) bool",
    "system": "the System",
    "graph": "the Graph, with bonds and angles",
}
ON_POSITIONS = frozenset({"positions", "R", "cell", "box", "neighbor", "perturbation"})
ON_EDGES = frozenset({"vectors", "distances"})
SEES_PADDING = frozenset({"mask", "species", "system", "graph", "neighbor", "edge_mask"})


def asked_for(function: Callable, *, skip: int, what: str) -> tuple[str, ...]:
    """Names of the inputs that a function asks for.

    Args:
        function: whose signature is read; parameters with a default that are not offered keep it.
        skip: leading parameters that are not inputs (``params``).
        what: what to call it in messages.

    Raises:
        ValueError: a parameter without default that nothing here is called.
    """
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    fixed = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    unknown = [p.name for p in fixed if p.name not in OFFERED and p.default is p.empty]
    if unknown:
        raise ValueError(
            f"{what} asks for {', '.join(unknown)}, which is not offered: rename its parameters, or wrap it in a "
            f"function of {', '.join(OFFERED)}"
        )
    return tuple(p.name for p in fixed if p.name in OFFERED)


def require_smooth_padding(names: Iterable[str], what: str) -> None:
    """Refuse a function of positions that can't tell a padded atom from a real one.

    Raises:
        ValueError: it asks for nothing that says so.
    """
    if not SEES_PADDING & set(names):
        raise ValueError(
            f"{what} sees positions only and would take padded atoms for real ones: let it ask for mask or species"
        )


def positional_inputs(
    names: Iterable[str],
    positions: Positions,
    cell: Cell,
    system: System,
    graph: Graph,
    cutoff: float,
    neighbor: Callable[[Graph, Array], Any],
    perturbation: Array,
) -> dict[str, Any]:
    """Inputs of a function of positions.

    Args:
        names: from `asked_for`.
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom.
        system: the structure.
        graph: the neighbors.
        cutoff: angstrom.
        neighbor: makes jax-md's list of a graph and the positions.
        perturbation: (3, 3).
    """
    num_atoms = positions.shape[0]
    # Out of the way of everything real, and each three cutoffs from the next: no distance is zero.
    place = (1e3 + 3.1 * cutoff * jnp.arange(num_atoms, dtype=positions.dtype))[:, None]
    far = place * jnp.asarray([[1.0, 0.618, 0.414]], positions.dtype)
    apart = jnp.where(system.mask[:, None], positions, far)
    return _select(
        names,
        system,
        graph,
        {
            "positions": lambda: apart,
            "R": lambda: apart,
            "cell": lambda: cell,
            "box": lambda: cell.T,
            "neighbor": lambda: neighbor(graph, apart),
            "perturbation": lambda: perturbation,
        },
    )


def edge_inputs(
    names: Iterable[str], vectors: Array, system: System, graph: Graph, cutoff: float
) -> dict[str, Any]:
    """Inputs of a function of edges.

    Args:
        names: from `asked_for`.
        vectors: (E, 3) angstrom.
        system: the structure.
        graph: the neighbors.
        cutoff: angstrom.
    """
    far = jnp.asarray([[0.0, 0.0, 2.0 * cutoff]], vectors.dtype)
    apart = jnp.where(graph.mask[:, None], vectors, far)
    return _select(
        names, system, graph, {"vectors": lambda: apart, "distances": lambda: safe_norm(apart, axis=-1)}
    )


def _select(
    names: Iterable[str], system: System, graph: Graph, geometry: dict[str, Callable[[], Any]]
) -> dict[str, Any]:
    offered = geometry | {
        "centers": lambda: graph.centers,
        "receivers": lambda: graph.centers,
        "neighbors": lambda: graph.neighbors,
        "senders": lambda: graph.neighbors,
        "edge_mask": lambda: graph.mask,
        "species": lambda: system.species,
        "mask": lambda: system.mask,
        "pbc": lambda: system.pbc,
        "system": lambda: system,
        "graph": lambda: graph,
    }
    return {name: offered[name]() for name in names}
