"""The figure and the table of the forgetting experiment, from saved numbers only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptt_relax.report import style
from bptt_relax.report.names import PARTS
from bptt_relax.report.tables import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REMEDIES = {
    "none": (style.INK, "X"),
    "learning rate": ("#0072B2", "v"),
    "anchor": ("#56B4E9", "P"),
    "replay": ("#009E73", "o"),
    "freezing": ("#D98200", "s"),
    "low rank": ("#CC79A7", "D"),
}
CAPTION = (
    "ΔQ: mean over held-out defects, √u·Å. Changes: on crystals of other chemistry, against the pretrained model. "
    "Light: the worst of the blocks, each judged by its change in units of the pretrained model's own error."
)


def draw(folder: Path, results: dict[str, Any]) -> None:
    """Draw into ``folder/figures``."""
    style.save(trade_off(results), folder / "figures", "trade_off")


def trade_off(results: dict[str, Any]) -> "Figure":
    """Error on held-out defects against the change of forces on other chemistry, one point per variant.

    Args:
        results: as in ``results.json``.
    """
    parts = [part for part in PARTS if part in results["pretrained"]]
    with style.drawing():
        figure = style.new_figure(4.6 * len(parts), 4.0)
        panels = figure.subplots(1, len(parts), squeeze=False)[0]
        for axes, part in zip(panels, parts, strict=True):
            _panel(axes, results, part)
        panels[0].set_ylabel(style.DELTA_Q)
        _key(figure, results)
    return figure


def _panel(axes: "Axes", results: dict[str, Any], part: str) -> None:
    before = results["pretrained"][part]["delta_q"]
    axes.set_title(f"{PARTS[part]} ({len(before['per_structure'])})")
    axes.grid()
    style.level(axes, before["mean"], "pretrained")
    found = results["variants"].values()
    for variant in found:
        tint, shape = REMEDIES[variant["remedy"]]
        x, y = _force_change(variant), variant[part]["delta_q"]["mean"]
        axes.plot(x, y, shape, color=tint, ms=7.0, mew=0, zorder=3)
    changes = [_force_change(variant) for variant in found]
    axes.set_xlim(0.0, 1.28 * max(changes))
    values = [before["mean"], *(variant[part]["delta_q"]["mean"] for variant in found)]
    margin = 0.1 * (max(values) - min(values) or 1.0)
    axes.set_ylim(min(values) - margin, max(values) + 1.5 * margin)
    scale = 1000 * next(iter(found))["forgetting"]["blocks"]["forces"]["scale"]
    for fraction, text in ((0.5, "half its own error"), (1.0, "its own error")):
        if fraction * scale < axes.get_xlim()[1]:
            axes.axvline(fraction * scale, color=style.FAINT, lw=1.2, zorder=0)
            axes.text(
                fraction * scale,
                0.02,
                f" {text}",
                transform=axes.get_xaxis_transform(),
                fontsize=7.0,
                color=style.MUTED,
            )
    axes.set_xlabel("change of forces on other chemistry (meV/Å)")
    _labels(axes, results, part)


def _labels(axes: "Axes", results: dict[str, Any], part: str) -> None:
    """A label beside each point, where there is room; points that coincide share theirs."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    shared: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for variant in results["variants"].values():
        point = (_force_change(variant), variant[part]["delta_q"]["mean"])
        shared.setdefault(point, []).append(variant)

    def at(x: float, y: float) -> tuple[float, float]:
        return (x - left) / (right - left), (y - bottom) / (top - bottom)

    # Boxes in shares of the panel: from, to, height. A letter is about 0.016 wide and a line 0.04 high.
    taken = [(u - 0.012, u + 0.012, v) for u, v in (at(*point) for point in shared)]
    for point, variants in sorted(shared.items()):
        text = ", ".join(variant["label"] for variant in variants)
        u, v = at(*point)
        width = 0.016 * len(text)
        choices = {
            (6, 4): (u + 0.02, u + 0.02 + width, v + 0.025),
            (6, -11): (u + 0.02, u + 0.02 + width, v - 0.03),
            (-6, 4): (u - 0.02 - width, u - 0.02, v + 0.025),
            (-6, -11): (u - 0.02 - width, u - 0.02, v - 0.03),
        }
        free = [
            offset
            for offset, (a, b, h) in choices.items()
            if all(b < c or a > d or abs(h - k) > 0.035 for c, d, k in taken)
        ]
        offset = (free or list(choices))[0]
        taken.append(choices[offset])
        axes.annotate(
            text,
            point,
            xytext=offset,
            textcoords="offset points",
            ha="left" if offset[0] > 0 else "right",
            fontsize=7.5,
            color=REMEDIES[variants[0]["remedy"]][0],
        )


def _key(figure: "Figure", results: dict[str, Any]) -> None:
    from matplotlib.lines import Line2D

    shown = dict.fromkeys(variant["remedy"] for variant in results["variants"].values())
    handles = [
        Line2D(
            [], [], ls="none", marker=REMEDIES[name][1], color=REMEDIES[name][0], mew=0, ms=7.0, label=name
        )
        for name in shown
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


def _force_change(variant: dict[str, Any]) -> float:
    return 1000 * variant["forgetting"]["blocks"]["forces"]["change"]


def table(results: dict[str, Any]) -> Grid:
    """One row per variant.

    Args:
        results: as in ``results.json``.
    """
    parts = [part for part in PARTS if part in results["pretrained"]]
    rows = [_row("pretrained", results["pretrained"], parts)]
    rows += [_row(variant["label"], variant, parts) for variant in results["variants"].values()]
    headings = ("", *(f"ΔQ\n{part}" for part in parts), "energy\nmeV/atom", "volume\n%", "bulk\nmodulus %")
    headings += ("forces\nmeV/Å", "repulsion\nkept %", "light")
    return Grid(
        "Remedies against forgetting", headings, tuple(tuple((c, False) for c in r) for r in rows), (CAPTION,)
    )


def _row(label: str, entry: dict[str, Any], parts: list[str]) -> list[str]:
    cells = [label, *(f"{entry[part]['delta_q']['mean']:.3f}" for part in parts)]
    found = entry.get("forgetting")
    if found is None:
        return [*cells, *["–"] * 6]
    blocks = found["blocks"]
    for name, factor in (("energy", 1000), ("volume", 100), ("bulk_modulus", 100), ("forces", 1000)):
        cells.append(f"{factor * blocks[name]['change']:.1f}" if name in blocks else "–")
    kept = blocks["short_range"]["mean_share"]
    return [*cells, "–" if kept is None else f"{100 * kept:.0f}", found["light"]]
