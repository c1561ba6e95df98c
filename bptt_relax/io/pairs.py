"""Training pairs in one padded layout, so that one compilation serves all of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bptt_relax import systems
from bptt_relax.io.checks import CELL_TOLERANCE, cell_change
from bptt_relax.io.problems import Problem, describe
from bptt_relax.io.reading import read_relaxations
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.neighbors import GraphSpec
from bptt_relax.outcomes import InputError
from bptt_relax.systems import Layout, Pair


def to_pairs(
    relaxations: Sequence[Relaxation], spec: GraphSpec, *, skin: float = 1.0, layout: Layout | None = None
) -> list[Pair]:
    """Pad relaxations and build their neighbors.

    Args:
        relaxations: with a fixed cell (`at_relaxed_cell` makes one of a free cell).
        spec: the graph the potential asks for (``potential.graph``).
        skin: of the neighbor lists, angstrom.
        layout: padded sizes; planned over starts and ends when not given.

    Raises:
        InputError: there are none, or cells change.
    """
    if not relaxations:
        raise InputError("no relaxations to make pairs of")
    problems = []
    for r in relaxations:
        strain, _ = cell_change(r.initial, r.relaxed)
        if strain > CELL_TOLERANCE:
            fix = "relax in the final cell (pairs.at_relaxed_cell), or leave it out"
            text = f"cell changes by {100 * strain:.1f}%, and a pair has one cell"
            problems.append(Problem(str(r.info.get("source", r.name)), r.name, text, fix))
    if problems:
        raise InputError(describe(problems, "cannot make pairs"))
    if layout is None:
        layout = systems.plan_layout(
            [s for r in relaxations for s in (r.initial, r.relaxed)], spec, skin=skin
        )
    return [systems.prepare_pair(r.initial, r.relaxed, spec, layout, skin=skin) for r in relaxations]


def read_pairs(path: Path | str, spec: GraphSpec, *, skin: float = 1.0, **options) -> list[Pair]:
    """Read, check, pad and build neighbors in one go.

    Args:
        path: as `read_relaxations`.
        spec: the graph the potential asks for (``potential.graph``).
        skin: of the neighbor lists, angstrom.
        **options: of `read_relaxations`.

    Raises:
        InputError: lists everything that is wrong.
    """
    return to_pairs(read_relaxations(path, **options), spec, skin=skin)


def at_relaxed_cell(relaxation: Relaxation) -> Relaxation:
    """The relaxation of the atoms alone, in the cell that a relaxation with a free cell ended in.

    The start keeps its fractional coordinates. Steps in between are dropped: their labels belong to other cells.

    Args:
        relaxation: with any cell.
    """
    r = relaxation
    start = r.initial._replace(
        positions=r.initial.positions @ np.linalg.inv(r.initial.cell) @ r.relaxed.cell, cell=r.relaxed.cell
    )
    return r._replace(frames=(start, r.relaxed), energies=None, forces=None, stresses=None, start=0)
