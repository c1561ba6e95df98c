"""The result as tables: one of the stages, one of the structures, for the terminal and as Markdown."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from bptt_relax.outcomes import printable
from bptt_relax.report import forgetting
from bptt_relax.report.names import STAGES, readable, stage_label, to_ascii
from bptt_relax.units import EV_PER_A3_IN_GPA

Block = dict[str, Any]
_LOG_WIDTH = 130


@dataclass(frozen=True)
class Column:
    """One number per stage: where it is found, how it is written, and which end of it is better."""

    heading: str
    get: Callable[[Block], float | None]
    form: Callable[[float], str]
    lower_is_better: bool = True


COLUMNS = (
    Column("mean\nΔQ", lambda b: _dig(b, "delta_q", "mean"), lambda x: f"{x:.3f}"),
    Column("geometric\nmean", lambda b: _dig(b, "delta_q", "geometric_mean"), lambda x: f"{x:.3f}"),
    Column("same\nbasin", lambda b: _dig(b, "basin_fraction"), lambda x: f"{x:.0%}", lower_is_better=False),
    Column("converged", lambda b: _dig(b, "converged_fraction"), lambda x: f"{x:.0%}", lower_is_better=False),
    Column("volume\nerror", lambda b: _dig(b, "cell", "volume_error", "mean"), lambda x: f"{x:.2%}"),
    Column("strain", lambda b: _dig(b, "cell", "strain", "mean"), lambda x: f"{x:.2%}"),
    Column("force\nMAE", lambda b: _dig(b, "force_mae"), lambda x: f"{1000 * x:.0f}"),
    Column("max force\nat DFT", lambda b: _dig(b, "fmax_at_dft"), lambda x: f"{1000 * x:.0f}"),
    Column("stress\nMAE", lambda b: _dig(b, "stress_mae"), lambda x: f"{EV_PER_A3_IN_GPA * x:.2f}"),
)
OF_CELLS = ("volume\nerror", "strain", "stress\nMAE")
"""Columns that are left out where no cell was relaxed."""
NOT_OF_CELLS = ("geometric\nmean", "max force\nat DFT")
"""Columns that make room for them."""
MOST_NAMED = 5
"""Structures that did not converge which a table names of each stage."""

CAPTION = (
    "ΔQ: mass-weighted distance to the DFT structure, √u·Å. Same basin: no atom ends further than 0.25 Å from its "
    "DFT position. Forces in meV/Å."
)
CAPTION_OF_CELLS = (
    "ΔQ is that in the DFT cell where the cell was relaxed too. Strain: from the DFT cell. Stress in GPa."
)


TEXT_HEADINGS = ("part", "light", "worst")
"""Columns that hold words."""


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn: cells as text, each emphasised or not; the first column is the row's name."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[tuple[str, bool], ...], ...]
    notes: tuple[str, ...] = ()


def results_table(results: dict[str, Any]) -> RenderableType:
    """The result for a terminal; best values bold, ASCII where the console can't do more.

    Args:
        results: as in ``results.json``; stages and numbers that are missing are left out.
    """
    return _Tables(tuple(_grids(results)))


def print_results(results: dict[str, Any], console: Console | None = None) -> None:
    """Print the result.

    Args:
        results: as in ``results.json``.
        console: standard output when not given.
    """
    (console or _console()).print(results_table(results))


def print_grids(grids: Iterable[Grid], console: Console | None = None) -> None:
    """Print tables of any content.

    Args:
        grids: tables.
        console: standard output when not given.
    """
    (console or _console()).print(_Tables(tuple(grids)))


def _console() -> Console:
    """Standard output: as wide as the terminal, and in a log wide enough for every heading."""
    return Console() if sys.stdout.isatty() else Console(width=_LOG_WIDTH)


def results_markdown(results: dict[str, Any]) -> str:
    """The result as Markdown.

    Args:
        results: as in ``results.json``; stages and numbers that are missing are left out.
    """
    return "\n\n".join(markdown(grid) for grid in _grids(results)) + "\n"


def summary(block: Block) -> str | None:
    """The change in words, or None where it was not computed.

    Args:
        block: a model's entry, or its ``unseen`` part.
    """
    against = [_against(block, "bptt_vs_pretrained", "ci95", "pretrained")]
    against += [_against(block, "bptt_vs_force_matching", "bptt_vs_force_matching_ci95", "force matching")]
    if against[0] is None:
        return None
    text = f"Change of the mean ΔQ by BPTT: {', '.join(part for part in against if part)}."
    geometric = _dig(block, "reduction", "geometric_mean")
    return text if geometric is None else f"{text} Geometric mean: {percent(-geometric)}."


def _against(block: Block, key: str, interval_key: str, label: str) -> str | None:
    reduction, interval = _dig(block, "reduction", key), _dig_any(block, "reduction", interval_key)
    if reduction is None:
        return None
    text = f"{percent(-reduction)} against {label}"
    if isinstance(interval, list | tuple) and len(interval) == 2 and None not in map(_number, interval):
        low, high = sorted(-x for x in interval)
        text += f" (95% interval {percent(low)} to {percent(high)})"
    return text


def percent(fraction: float) -> str:
    """A signed percentage with a proper minus."""
    return f"{fraction:+.0%}".replace("-", "−")


def change(reduction: float, interval: Iterable[float]) -> str:
    """A change in percent with its interval, for a cell; less is negative.

    Args:
        reduction: as a fraction, less being positive.
        interval: of it.
    """
    low, high = sorted(-x for x in interval)
    return f"{percent(-reduction)} ({percent(low)[:-1]} to {percent(high)[:-1]})"


def _grids(results: dict[str, Any]) -> Iterator[Grid]:
    for model, entry in results.get("models", {}).items():
        unseen = entry.get("unseen") or {}
        yield stage_grid(f"{model}: {_counted(entry, 'test structure')}", entry, CAPTION)
        for key, what in (("free_cell", "with a free cell"), ("given_cell", "in a given cell")):
            if entry.get(key):
                yield stage_grid(f"{model}: {_counted(entry[key], 'test structure')} {what}", entry[key])
        if any(stage in unseen for stage in STAGES):
            yield stage_grid(f"{model}: {_counted(unseen, 'structure')} of kinds never trained on", unseen)
        yield _structure_grid(f"{model}: ΔQ of every structure", entry, unseen)
    stages = (results.get("forgetting") or {}).get("stages", {})
    for stage, entry in stages.items():
        caption = forgetting.CAPTION if stage == list(stages)[-1] else None
        yield forgetting_grid(f"Forgetting, {stage_label(stage)}: {entry['light']}", entry, caption)


def forgetting_grid(title: str, entry: Block, caption: str | None = None) -> Grid:
    """What one stage has changed elsewhere.

    Args:
        title: of the table.
        entry: of ``results["forgetting"]["stages"]``.
        caption: under it, beside the verdict.
    """
    rows = tuple(tuple((cell, False) for cell in row) for row in forgetting.rows(entry))
    notes = tuple(text for text in (forgetting.sentence(entry), caption) if text)
    return Grid(title, forgetting.HEADINGS, rows, notes)


def stage_grid(title: str, block: Block, caption: str | None = None) -> Grid:
    """All stages on one part of the data.

    Args:
        title: of the table.
        block: a model's entry, or its ``unseen`` part.
        caption: under it, beside the change in words.
    """
    stages = [stage for stage in STAGES if block.get(stage)]
    of_cells = any(block[stage].get("cell") for stage in stages)
    left_out = NOT_OF_CELLS if of_cells else OF_CELLS
    columns = [column for column in COLUMNS if column.heading not in left_out]
    values = {stage: [_number(column.get(block[stage])) for column in columns] for stage in stages}
    best = [
        _best((values[stage][i] for stage in stages), column.lower_is_better)
        for i, column in enumerate(columns)
    ]
    rows = []
    for stage in stages:
        cells = [(stage_label(stage), False)]
        for column, value, top in zip(columns, values[stage], best, strict=True):
            cells.append(("–", False) if value is None else (column.form(value), value == top))
        rows.append(tuple(cells))
    told = f"{caption} {CAPTION_OF_CELLS}" if caption and of_cells else caption
    notes = tuple(text for text in (summary(block), _failed(block, stages), told) if text)
    return Grid(title, ("", *(column.heading for column in columns)), tuple(rows), notes)


def _failed(block: Block, stages: Iterable[str]) -> str | None:
    """What did not converge, and the mean of what did; None where everything did."""
    told = []
    for stage in stages:
        names = [readable(name) for name in block[stage].get("not_converged") or {}]
        if not names:
            continue
        others = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        mean = _dig(block, stage, "converged_only", "delta_q")
        alone = "" if mean is None else f" (mean ΔQ of what converged: {mean:.3f})"
        told.append(f"{stage_label(stage)}: {', '.join(names[:MOST_NAMED])}{others}{alone}")
    return f"Not converged with {'; '.join(told)}." if told else None


def _structure_grid(title: str, test: Block, unseen: Block) -> Grid:
    stages = [stage for stage in STAGES if test.get(stage) or unseen.get(stage)]
    rows = []
    for part, block in (("test", test), ("unseen kind", unseen)):
        per_stage = {stage: _dig_any(block, stage, "delta_q", "per_structure") or {} for stage in stages}
        names = {name: None for stage in stages for name in per_stage[stage]}
        for name in sorted(names, key=lambda n: -(_number(per_stage[stages[0]].get(n)) or 0.0)):
            values = [_number(per_stage[stage].get(name)) for stage in stages]
            best = _best(values, lower_is_better=True)
            cells = [(readable(name), False), (part, False)]
            cells += [("–", False) if v is None else (f"{v:.3f}", v == best) for v in values]
            rows.append(tuple(cells))
    return Grid(title, ("structure", "part", *(stage_label(stage) for stage in stages)), tuple(rows))


def _counted(block: Block, what: str) -> str:
    names = _dig_any(block, "pretrained", "delta_q", "per_structure") or {}
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def _best(values: Iterable[float | None], lower_is_better: bool) -> float | None:
    """The value to emphasise: none where all are equal, since then nothing is better than anything."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return None
    return min(known) if lower_is_better else max(known)


def _dig_any(block: Any, *keys: str) -> Any:
    for key in keys:
        block = block.get(key) if isinstance(block, dict) else None
    return block


def _dig(block: Any, *keys: str) -> float | None:
    return _number(_dig_any(block, *keys))


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True)
class _Tables:
    """Draws the grids when it is printed: only the console knows its encoding."""

    grids: tuple[Grid, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        def write(text: str) -> str:
            return printable(to_ascii(text) if options.ascii_only else text)

        for grid in self.grids:
            # Text, never str: a name such as [bold] is a name, not markup.
            table = Table(
                title=Text(write(grid.title), "bold"),
                title_justify="left",
                caption=Text(write("\n".join(grid.notes)), "dim") if grid.notes else None,
                caption_justify="left",
                box=box.SIMPLE_HEAD,
                pad_edge=False,
            )
            for i, heading in enumerate(grid.headings):
                words = i > 0 and heading not in TEXT_HEADINGS
                table.add_column(Text(write(heading)), justify="right" if words else "left", no_wrap=i == 0)
            for row in grid.rows:
                table.add_row(*(Text(write(text), "bold green" if best else "") for text, best in row))
            yield table
            yield Text()


def markdown(grid: Grid) -> str:
    """One table as Markdown, its cells escaped."""
    numeric = [i > 0 and heading not in TEXT_HEADINGS for i, heading in enumerate(grid.headings)]
    lines = [
        f"**{escape(grid.title)}**",
        "",
        "| " + " | ".join(heading.replace("\n", " ") for heading in grid.headings) + " |",
        "|" + "|".join("---:" if right else "---" for right in numeric) + "|",
    ]
    for row in grid.rows:
        lines.append("| " + " | ".join(f"**{escape(t)}**" if best else escape(t) for t, best in row) + " |")
    return "\n".join([*lines, *(f"\n{note}" for note in grid.notes)])


def escape(text: str) -> str:
    """Text that comes from outside, so that Markdown takes it for text and a terminal that shows it does too."""
    text = printable(text)
    for character in "\\|*_`[]<>":
        text = text.replace(character, "\\" + character)
    return text
