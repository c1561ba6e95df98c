"""Measurements as tables: for the terminal, and as Markdown blocks that documents are filled with."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import analysis
from benchmarks.analysis import Spread
from benchmarks.entries import ENTRIES
from benchmarks.schema import Comparison, Measured, Results

NOTHING = "–"
ALTERNATIVE = "Memory and time of each adjoint against the number of steps, and how far off each gradient is"
_SOFTWARE = ("jax", "jax-md", "flax", "equinox", "optimistix", "torch", "chgnet")
MODELS = {"stillinger-weber": "Stillinger-Weber", "chgnet-0.3.0": "CHGNet 0.3.0"}


class Grid(NamedTuple):
    """A table before it is drawn: cells as text, names left, numbers right.

    Attributes:
        title: one line.
        headings: of every column; the first is that of the rows' names.
        rows: cells.
        notes: sentences below.
    """

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def show(results: Results, console: Console) -> None:
    """Print everything."""
    for grids in BLOCKS.values():
        for grid in grids(results):
            console.print(_rich(grid))


def fill(results: Results, file: Path, picture: Path | None = None) -> list[str]:
    """Replace what stands between ``<!-- benchmarks NAME -->`` and ``<!-- end -->`` in a document.

    Args:
        results: the measurements.
        file: a Markdown document.
        picture: what a block called ``figure`` shows; such a block is left alone without one.

    Returns:
        Names of the blocks that were filled.

    Raises:
        ValueError: the document asks for a block that does not exist, or for none.
    """
    found: list[str] = []

    def block(match: re.Match) -> str:
        name = match[1]
        if name == "figure" and picture is None:
            return match[0]
        if name != "figure" and name not in BLOCKS:
            raise ValueError(f"{file} asks for the block {name!r}; there are figure, {', '.join(BLOCKS)}")
        found.append(name)
        if name == "figure":
            text = f"![{ALTERNATIVE}]({Path(os.path.relpath(picture, file.parent)).as_posix()})"
        else:
            text = "\n\n".join(_markdown(grid) for grid in BLOCKS[name](results)) or "Not measured."
        return f"<!-- benchmarks {name} -->\n{text}\n<!-- end -->"

    pattern = re.compile(r"<!-- benchmarks (\w+) -->\n.*?<!-- end -->", re.DOTALL)
    before = file.read_text(encoding="utf-8")
    text = pattern.sub(block, before)
    if not pattern.search(before):
        raise ValueError(f"{file} has no <!-- benchmarks NAME --> ... <!-- end --> to fill")
    file.write_text(text, encoding="utf-8")
    return found


def costs(results: Results) -> list[Grid]:
    """Time and memory of every strategy against the number of steps, one grid for each model and size."""
    groups: dict[tuple[str, int], list[Comparison]] = {}
    for comparison in results.comparisons:
        groups.setdefault((comparison.model, comparison.atoms), []).append(comparison)
    return [
        _cost_grid(model, atoms, sorted(group, key=lambda c: c.steps))
        for (model, atoms), group in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1]))
    ]


def peers(results: Results) -> list[Grid]:
    """Everything that was run next to another framework."""
    return [
        _peer_grid(c) for c in results.comparisons if any(ENTRIES[m.entry].chgnet_only for m in c.entries)
    ]


def growth(results: Results) -> list[Grid]:
    """Exponents in steps and atoms."""
    found = analysis.growth(results)
    exponents = {(g.model, g.entry, g.quantity, g.variable): g for g in found}
    columns = [("time", "steps"), ("memory", "steps"), ("time", "atoms"), ("memory", "atoms")]
    grids = []
    headings = ("", "time, steps", "memory, steps", "time, atoms", "memory, atoms")
    note = "p in cost ~ size^p, fitted over logarithms; memory is the compiler's scratch memory."
    for model in dict.fromkeys(g.model for g in found):
        rows = []
        for entry in (name for name in ENTRIES if any((g.model, g.entry) == (model, name) for g in found)):
            cells = [exponents.get((model, entry, *column)) for column in columns]
            rows.append((ENTRIES[entry].label, *(f"{g.exponent:.2f}" if g else NOTHING for g in cells)))
        grids.append(Grid(f"{MODELS.get(model, model)}: growth", headings, rows, (note,)))
    return grids


def targets(results: Results) -> list[Grid]:
    """What was promised and what was found."""
    rows = []
    for target in analysis.targets(results):
        limit = f"{'≥' if target.at_least else '≤'} {target.limit:g}"
        verdict = {True: "yes", False: "no", None: "not measured"}[target.met]
        found = NOTHING if target.found is None else _short(target.found)
        rows.append((target.what, target.case, found, limit, verdict))
    return [Grid("Targets", ("", "case", "found", "target", "met"), rows)]


def conditions(results: Results) -> list[Grid]:
    """Where and with what it was measured, and what was left out."""
    if not results.comparisons:
        return []
    environments = {str(c.environment): c.environment for c in results.comparisons if c.environment}
    rows = []
    for found in environments.values():
        packages = found.get("packages", {})
        rows += [
            ("processor", f"{found.get('processor')}, {found.get('cpu_count')} cores"),
            ("device", f"{found.get('device', {}).get('backend')}, {found.get('device', {}).get('kind')}"),
            (
                "software",
                ", ".join(f"{name} {packages[name]}" for name in _SOFTWARE if packages.get(name)),
            ),
            ("precision", str(found.get("precision", {}).get("floats"))),
            ("commit", str(found.get("commit"))[:12]),
        ]
    busy = [c.name for c in results.comparisons if max(c.load) > (c.environment.get("cpu_count") or 1) + 1]
    if busy:
        rows.append(("measured while the machine was busy", ", ".join(busy)))
    rows += [("left out", text) for text in results.left_out]
    return [Grid("Conditions", ("", "value"), rows)]


BLOCKS: dict[str, Callable[[Results], list[Grid]]] = {
    "costs": costs,
    "peers": peers,
    "growth": growth,
    "targets": targets,
    "conditions": conditions,
}


def _cost_grid(model: str, atoms: int, group: list[Comparison]) -> Grid:
    names = [name for name in ENTRIES if any(c.get(name) for c in group) and not ENTRIES[name].chgnet_only]
    rows, notes = [], []
    for name in names:
        measured = [c.get(name) for c in group]
        if name == "forward":
            times = [_seconds(m) for m in measured]
        else:
            times = [_ratio(analysis.ratio(c, name, "forward")) for c in group]
        temp = [_megabytes(m and m.temp_bytes) for m in measured]
        peaks = [m.peak_bytes for m in measured if m and m.peak_bytes is not None]
        peak = _megabytes(max(peaks, default=None))
        rows.append((ENTRIES[name].label, *times, *temp, peak, _compile(measured)))
    for reason in dict.fromkeys(m.note for c in group for m in c.entries if m.note and m.entry in names):
        where = [
            f"{ENTRIES[m.entry].label} at {c.steps}" for c in group for m in c.entries if m.note == reason
        ]
        notes.append(f"{', '.join(where)}: {reason}.")
    steps = [c.steps for c in group]
    headings = ("", *(f"T={t}" for t in steps), *(f"MB {t}" for t in steps), "peak MB", "compile s")
    title = (
        f"{MODELS.get(model, model)}, {atoms} atoms: the forward relaxation in seconds, value and gradient over it; "
        "scratch memory"
    )
    return Grid(title, headings, rows, tuple(notes))


def _peer_grid(comparison: Comparison) -> Grid:
    exact = [name for name, entry in ENTRIES.items() if entry.exact]
    rows, notes = [], []
    for measured in comparison.entries:
        entry = ENTRIES[measured.entry]
        apart = analysis.disagreement(comparison, measured.entry, exact) if entry.exact else None
        gradient = entry.kind == "gradient"
        rows.append(
            (
                entry.label,
                _ratio(analysis.ratio(comparison, measured.entry, "forward")),
                _spread(analysis.ratio(comparison, measured.entry, "force")) if gradient else NOTHING,
                _megabytes(measured.peak_bytes),
                NOTHING if apart is None else f"{apart:.0e}",
            )
        )
        if measured.note:
            notes.append(f"{entry.label}: {measured.note}.")
    notes.append(
        "Medians over rounds in which all ran in turns, smallest and largest in brackets. Memory is how far the "
        "process grew. Last column: relative difference of the gradient's norm."
    )
    headings = (
        "",
        "time / forward",
        "gradients / force, forwards / forward",
        "peak MB",
        "gradient differs by",
    )
    name = MODELS.get(comparison.model, comparison.model)
    return Grid(
        f"{name}, {comparison.atoms} atoms, {comparison.steps} steps, next to PyTorch",
        headings,
        rows,
        tuple(notes),
    )


def _compile(measured: list[Measured | None]) -> str:
    seconds = [
        m.trace_seconds + m.compile_seconds
        for m in measured
        if m and m.compile_seconds is not None and m.trace_seconds is not None
    ]
    return _short(median(seconds)) if seconds else NOTHING


def _seconds(measured: Measured | None) -> str:
    return f"{_short(median(measured.rounds))} s" if measured and measured.rounds else NOTHING


def _ratio(spread: Spread | None) -> str:
    return NOTHING if spread is None else _short(spread.middle)


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    return f"{_short(spread.middle)} ({_short(spread.low)} to {_short(spread.high)})"


def _megabytes(count: int | None) -> str:
    return NOTHING if count is None else _short(count / 1e6)


def _short(value: float) -> str:
    """Three figures at most, two behind the point at most."""
    if value >= 99.5:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def _rich(grid: Grid) -> Table:
    table = Table(
        title=Text(grid.title, "bold"),
        title_justify="left",
        caption=Text("\n".join(grid.notes), "dim") if grid.notes else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for i, heading in enumerate(grid.headings):
        # A name that is cut short or wrapped is worse than a wide table.
        table.add_column(Text(heading), justify="left" if _words(grid, i) else "right", no_wrap=i == 0)
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _markdown(grid: Grid) -> str:
    lines = [
        f"**{grid.title}**",
        "",
        "| " + " | ".join(grid.headings) + " |",
        "|" + "|".join("---" if _words(grid, i) else "---:" for i in range(len(grid.headings))) + "|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in grid.rows]
    return "\n".join([*lines, *(f"\n{note}" for note in grid.notes)])


def _words(grid: Grid, column: int) -> bool:
    return column == 0 or any(re.match(r"[a-zA-Z]{2}|\S+ [a-zA-Z]{3}", row[column]) for row in grid.rows)
