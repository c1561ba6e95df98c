"""The figure and the table of the adjoints experiment, from saved numbers only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptt_relax.report import style
from bptt_relax.report.tables import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = {
    "unrolled": "#0072B2",
    "both": "#009E73",
    "end": "#CC79A7",
    "forces": style.COLORS["force_matching"],
}
SOURCE = {"guided_8": 85, "full": 79, "implicit": 25}
"""Right basins of 100, Zhang, Dramko and Kyrillidis (2026): other data, another model, five seeds."""

PARTS = {"test": "test", "unseen": "unseen kinds"}
CAPTION = (
    "Right basin: starts with competing minima that end in that of DFT, at most 0.25 Å off. ΔQ: mean over held-out "
    "defects, √u·Å. Gradient: of one update, ionic steps included. Cosine: with the gradient through the whole unroll, "
    "at the pretrained model."
)


def draw(folder: Path, results: dict[str, Any]) -> None:
    """Draw into ``folder/figures``."""
    style.save(side_by_side(results), folder / "figures", "adjoints")


def side_by_side(results: dict[str, Any]) -> "Figure":
    """A row for each variant: right basins, error, memory and time of a gradient.

    Args:
        results: as in ``results.json``.
    """
    variants = results["variants"]
    with style.drawing():
        figure = style.new_figure(11.0, 1.5 + 0.42 * len(variants))
        panels = figure.subplots(1, 4, sharey=True, width_ratios=(1.5, 1.5, 1.0, 1.0))
        _basins(panels[0], results)
        _errors(panels[1], results)
        _cost(panels[2], variants, "seconds", 1.0, "Time of a gradient", "s")
        _cost(panels[3], variants, "temporary_bytes", 1e-6, "Its scratch memory", "MB")
        heights = range(0, -len(variants), -1)
        panels[0].set_yticks(list(heights), [variant["label"] for variant in variants.values()])
        panels[0].set_ylim(-len(variants) + 0.4, 0.6)
        for axes in panels:
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
    return figure


def _basins(axes: "Axes", results: dict[str, Any]) -> None:
    before = results["pretrained"]["basins"]
    axes.set_title(f"Right basin, of {before['starts']} starts")
    axes.axvline(100 * before["rate"], color=style.COLORS["pretrained"], lw=1.2, ls=":")
    axes.annotate(
        "pretrained",
        (100 * before["rate"], 0.02),
        xycoords=axes.get_xaxis_transform(),
        xytext=(3, 0),
        textcoords="offset points",
        color=style.COLORS["pretrained"],
        fontsize=7.5,
    )
    for height, (name, variant) in enumerate(results["variants"].items()):
        found, tint = variant["basins"], GROUPS[variant["group"]]
        axes.plot([100 * x for x in found["ci95"]], [-height, -height], color=tint, lw=2.6, alpha=0.3)
        axes.plot(100 * found["rate"], -height, "o", color=tint, ms=7, mew=0, zorder=4)
        if name in SOURCE:
            axes.plot(SOURCE[name], -height, "D", mfc="white", mec=style.MUTED, ms=5.5, zorder=3)
    axes.plot([], [], "D", mfc="white", mec=style.MUTED, ms=5.5, label="the source, its own data")
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.16), borderaxespad=0.0)
    axes.set_xlim(-3, 103)
    axes.set_xlabel("%")


def _errors(axes: "Axes", results: dict[str, Any]) -> None:
    axes.set_title("ΔQ of held-out defects")
    parts = [part for part in PARTS if part in results["pretrained"]]
    for order, part in enumerate(parts):
        filled = order == 0
        before = results["pretrained"][part]["delta_q"]["mean"]
        axes.axvline(before, color=style.COLORS["pretrained"], lw=1.2, ls=":")
        axes.annotate(
            PARTS[part],
            (before, 0.02),
            xycoords=axes.get_xaxis_transform(),
            xytext=(3, 0),
            textcoords="offset points",
            color=style.COLORS["pretrained"],
            fontsize=7.5,
        )
        for height, variant in enumerate(results["variants"].values()):
            tint = GROUPS[variant["group"]]
            axes.plot(
                variant[part]["delta_q"]["mean"],
                -height,
                "o",
                ms=7,
                mec=tint,
                mfc=tint if filled else "white",
                mew=0 if filled else 1.4,
            )
        axes.plot(
            [], [], "o", ms=6, mec=style.INK, mfc=style.INK if filled else "white", mew=1.2, label=PARTS[part]
        )
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.16), borderaxespad=0.0, ncols=2)
    axes.set_xlabel("√u·Å")


def _cost(axes: "Axes", variants: dict[str, Any], key: str, factor: float, title: str, unit: str) -> None:
    axes.set_title(title)
    for height, variant in enumerate(variants.values()):
        value = factor * variant["cost"][key]
        axes.barh(-height, value, height=0.5, color=GROUPS[variant["group"]], alpha=0.85)
        axes.annotate(
            f"{value:.3g}", (value, -height), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.set_xlim(0, 1.25 * max(factor * variant["cost"][key] for variant in variants.values()))
    axes.set_xlabel(unit)


def table(results: dict[str, Any]) -> Grid:
    """One row per variant.

    Args:
        results: as in ``results.json``.
    """
    parts = [part for part in PARTS if part in results["pretrained"]]
    headings = ("", "right\nbasin", *(f"ΔQ\n{PARTS[part]}" for part in parts), "updates", "gradient\ns", "MB")
    headings += ("usable", "cosine")
    rows = [_row("pretrained", results["pretrained"], parts)]
    rows += [_row(variant["label"], variant, parts) for variant in results["variants"].values()]
    title = f"Ways to differentiate, {results['seconds']:g} s of training each"
    return Grid(title, headings, tuple(tuple((c, False) for c in r) for r in rows), (CAPTION,))


def _row(label: str, entry: dict[str, Any], parts: list[str]) -> list[str]:
    basins = entry["basins"]
    cells = [label, f"{basins['hits']}/{basins['starts']}"]
    cells += [f"{entry[part]['delta_q']['mean']:.2f}" for part in parts]
    cost = entry.get("cost")
    if cost is None:
        return [*cells, *["–"] * 5]
    usable, cosine = cost["usable"], cost["cosine"]
    return [
        *cells,
        str(entry["updates"]),
        f"{cost['seconds']:.2f}",
        f"{1e-6 * cost['temporary_bytes']:.0f}",
        "–" if usable is None else f"{100 * usable:.0f}%",
        "–" if cosine is None else f"{cosine:.2f}",
    ]
