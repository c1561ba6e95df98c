"""Every held-out structure before and after training."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt_relax.report import style
from bptt_relax.report.names import PARTS, STAGES, readable, stage_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = list[tuple[str, dict[str, float]]]

LOG_BEYOND = 10.0
"""Ratio of largest to smallest value from which a logarithmic axis reads better."""


def before_after(results: dict[str, Any], model: str) -> "Figure":
    """Delta Q of each structure: pretrained, force matching, BPTT; test structures above, unseen kinds below.

    Args:
        results: as in ``results.json``.
        model: which of its models.
    """
    entry = results["models"][model]
    parts = {"test": _rows(entry), "unseen": _rows(entry.get("unseen") or {})}
    return paired({PARTS[part]: rows for part, rows in parts.items() if rows} or {PARTS["test"]: []})


def paired(parts: Mapping[str, Rows], changes: Mapping[str, float] = MappingProxyType({})) -> "Figure":
    """Delta Q before and after training and of the control, a row for each structure or model.

    Args:
        parts: title of a panel -> its rows, from top to bottom.
        changes: title -> what is written beside the means as a fraction, where that isn't the change of the mean.
    """
    heights = [len(rows) + 2.2 for rows in parts.values()]
    with style.drawing():
        # Few rows still need room for titles, axis and key.
        figure = style.new_figure(7.0, max(0.9 + 0.235 * sum(heights) + 0.25 * len(parts), 3.6))
        panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        values = [x for rows in parts.values() for _, row in rows for x in row.values()]
        _scale(panels[-1], values)
        for axes, (title, rows) in zip(panels, parts.items(), strict=True):
            _panel(axes, title, rows, changes.get(title))
        panels[-1].set_xlabel(style.DELTA_Q)
        _key(
            figure,
            [stage for stage in STAGES if any(stage in row for rows in parts.values() for _, row in rows)],
        )
    return figure


def _rows(block: dict[str, Any]) -> Rows:
    """Structures with their values, the largest pretrained error first."""
    found: dict[str, dict[str, float]] = {}
    for stage in STAGES:
        per_structure = ((block.get(stage) or {}).get("delta_q") or {}).get("per_structure") or {}
        for name, value in per_structure.items():
            row = found.setdefault(name, {})
            if value is not None and math.isfinite(value):
                row[stage] = value
    return sorted(found.items(), key=lambda item: -item[1].get("pretrained", math.inf))


def _scale(axes: "Axes", values: list[float]) -> None:
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > LOG_BEYOND:
        axes.set_xscale("log")
        axes.set_xlim(min(positive) / 1.3, max(positive) * 1.3)
        style.plain_log_ticks(axes.xaxis)
    else:
        axes.set_xlim(0.0, 1.08 * max(values, default=1.0) or 1.0)


def _panel(axes: "Axes", title: str, rows: Rows, change: float | None) -> None:
    axes.set_title(f"{title} ({len(rows)})")
    axes.grid(axis="x")
    axes.text(
        1.015,
        0.75,
        "BPTT vs\npretrained",
        transform=axes.get_yaxis_transform(),
        fontsize=7.5,
        color=style.MUTED,
        va="bottom",
        linespacing=1.1,
    )
    heights = [float(-i) for i in range(len(rows))]
    for height, (_, row) in zip(heights, rows, strict=True):
        _dumbbell(axes, height, row)
    mean_height = -len(rows) - 0.4
    complete = [row for _, row in rows if len(row) == max(len(r) for _, r in rows)]
    means = {
        stage: float(np.mean([row[stage] for row in complete])) for stage in (complete[0] if complete else ())
    }
    if means:
        axes.axhspan(mean_height - 0.55, mean_height + 0.55, color="#F4F4F4", lw=0, zorder=0)
        _dumbbell(axes, mean_height, means, change, weight="bold")
    axes.set_yticks([*heights, mean_height], [*(readable(name) for name, _ in rows), "mean"])
    if axes.get_yticklabels():
        axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.set_ylim(mean_height - 0.6, 0.7)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", which="both", labelbottom=True)
    axes.spines["left"].set_visible(False)


def _dumbbell(
    axes: "Axes", height: float, row: dict[str, float], change: float | None = None, weight: str = "normal"
) -> None:
    before, after = row.get("pretrained"), row.get("bptt")
    if row:
        # Ties a control that fell outside the range of the other two to its row.
        axes.hlines(height, min(row.values()), max(row.values()), color=style.FAINT, lw=1.0, zorder=1)
    if before is not None and after is not None:
        worse = after > before if change is None else change > 0
        if change is None:
            change = (after - before) / before if before > 0 else 0.0
        tint, light = (style.WORSE, "#EDBBA5") if worse else (style.BETTER, "#A6CBE3")
        axes.plot([before, after], [height, height], color=light, lw=2.6, zorder=2)
        axes.text(
            1.015,
            height,
            f"{change:+.0%}".replace("-", "−"),
            transform=axes.get_yaxis_transform(),
            color=tint,
            fontsize=8.5,
            fontweight=weight,
            va="center_baseline",
        )
    for order, stage in enumerate(stage for stage in STAGES if stage in row):
        axes.plot(row[stage], height, ls="none", zorder=3 + order, clip_on=False, **style.marker(stage))


def _key(figure: "Figure", stages: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], ls="none", label=stage_label(stage), **style.marker(stage)) for stage in stages]
    if handles:
        figure.legend(
            handles=handles, loc="outside upper center", ncols=len(handles), labelcolor="markeredgecolor"
        )
