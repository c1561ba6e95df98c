"""Where relaxed cells end: volume and strain of every held-out crystal, stage by stage."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt_relax.report import style
from bptt_relax.report.names import STAGES, readable, stage_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("volume_change", 100.0, "volume, difference from DFT (%)"),
    ("strain", 100.0, "strain from the DFT cell (%)"),
    ("delta_q", 1.0, "ΔQ in the DFT cell (√u·Å)"),
)
OTHER_MARKER = "v"


def cells(block: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]] | None = None) -> "Figure":
    """Volume, strain and Delta Q of each structure whose cell was relaxed, the mean size of each below.

    Args:
        block: stage -> summary of the structures (``results.json``), other keys ignored.
        others: label -> summary of what is shown beside the stages.
    """
    shown = {stage: block[stage] for stage in STAGES if (block.get(stage) or {}).get("cell")}
    shown |= {label: summary for label, summary in (others or {}).items() if summary.get("cell")}
    first = next(iter(shown.values()))["cell"]["volume_error"]["per_structure"]
    names = sorted(first, key=lambda name: -first[name])
    with style.drawing():
        figure = style.new_figure(8.6, 1.5 + 0.27 * (len(names) + 1.4))
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (key, factor, label) in zip(panels, PANELS, strict=True):
            _panel(axes, {s: _values(summary, key, names, factor) for s, summary in shown.items()})
            axes.set_xlabel(label)
        heights = [*(-float(i) for i in range(len(names))), -len(names) - 0.4]
        panels[0].set_yticks(heights, [*map(readable, names), "mean size"])
        panels[0].set_ylim(heights[-1] - 0.6, 0.6)
        panels[0].axvline(0.0, color=style.INK, lw=0.8, zorder=1)
        _key(figure, list(shown))
    return figure


def _values(summary: Mapping[str, Any], key: str, names: list[str], factor: float) -> list[float]:
    """Values of the structures, and then what stands for all of them: of signed ones the mean size."""
    found = (summary if key == "delta_q" else summary["cell"])[key]["per_structure"]
    values = [factor * found[name] for name in names]
    return [*values, float(np.mean(np.abs(values)))]


def _panel(axes: "Axes", values: Mapping[str, list[float]]) -> None:
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    count = len(next(iter(values.values())))
    heights = [*(-float(i) for i in range(count - 1)), -(count - 1) - 0.4]
    axes.axhspan(heights[-1] - 0.5, heights[-1] + 0.5, color="#F4F4F4", lw=0, zorder=0)
    for i, height in enumerate(heights):
        row = [of_stage[i] for of_stage in values.values()]
        axes.hlines(height, min(row), max(row), color=style.FAINT, lw=1.0, zorder=1)
    for order, (stage, of_stage) in enumerate(values.items()):
        axes.plot(of_stage, heights, ls="none", zorder=3 + order, clip_on=False, **_marker(stage))


def _marker(stage: str) -> dict[str, Any]:
    if stage in STAGES:
        return style.marker(stage)
    tint = style.color(stage)
    return {"marker": OTHER_MARKER, "markersize": 5.0, "color": tint, "markeredgewidth": 0.0}


def _key(figure: "Figure", stages: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], ls="none", label=stage_label(stage), **_marker(stage)) for stage in stages]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
