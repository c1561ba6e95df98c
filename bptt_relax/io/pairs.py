"""Training pairs in one padded layout, so that one compilation serves all of them."""

from collections.abc import Sequence
from pathlib import Path

from bptt_relax import systems
from bptt_relax.io.checks import cell_change, changes_cell
from bptt_relax.io.options import DEFAULT_OPTIONS, ReadOptions
from bptt_relax.io.problems import Problem, describe
from bptt_relax.io.reading import read_relaxations
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.neighbors import GraphSpec
from bptt_relax.outcomes import InputError
from bptt_relax.systems import Layout, Pair


def to_pairs(
    relaxations: Sequence[Relaxation],
    spec: GraphSpec,
    *,
    skin: float = 1.0,
    layout: Layout | None = None,
    free_cells: bool = False,
) -> list[Pair]:
    """Pad relaxations and build their neighbors.

    Args:
        relaxations: with a fixed cell (`at_relaxed_cell` makes one of a free cell), unless free ones are wanted.
        spec: the graph the potential asks for (``potential.graph``).
        skin: of the neighbor lists, angstrom.
        layout: padded sizes; planned over starts and ends when not given.
        free_cells: where the cell changed the pair has a ``relaxed_cell``, for `relax.variable_cell_relaxation` and
            `losses.structure_distance`.

    Raises:
        InputError: there are none, or cells change and may not.
    """
    if not relaxations:
        raise InputError("no relaxations to make pairs of")
    problems = []
    for r in relaxations:
        strain, _ = cell_change(r.initial, r.relaxed)
        if changes_cell(r) and not free_cells:
            fix = "relax the cell too (free_cells=True), or only the atoms in the final cell (io.at_relaxed_cell)"
            text = f"cell changes by {100 * strain:.1f}%, and these pairs are for relaxations in one cell"
            problems.append(Problem(str(r.info.get("source", r.name)), r.name, text, fix))
    if problems:
        raise InputError(describe(problems, "cannot make pairs"))
    if layout is None:
        layout = systems.plan_layout(
            [s for r in relaxations for s in (r.initial, r.relaxed)], spec, skin=skin
        )
    return [
        systems.prepare_pair(r.initial, r.relaxed, spec, layout, skin=skin, free_cell=changes_cell(r))
        for r in relaxations
    ]


def read_pairs(
    path: Path | str,
    spec: GraphSpec,
    options: ReadOptions = DEFAULT_OPTIONS,
    *,
    skin: float = 1.0,
    free_cells: bool = False,
    **changes,
) -> list[Pair]:
    """Read, check, pad and build neighbors in one go.

    Args:
        path: as `read_relaxations`.
        spec: the graph the potential asks for (``potential.graph``).
        options: of reading.
        skin: of the neighbor lists, angstrom.
        free_cells: as `to_pairs`.
        **changes: single options in place of those.

    Raises:
        InputError: lists everything that is wrong.
    """
    return to_pairs(read_relaxations(path, options, **changes), spec, skin=skin, free_cells=free_cells)
