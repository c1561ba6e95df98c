"""The figure and the table of the robustness experiment, from saved numbers only."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptt_relax.report import style
from bptt_relax.report.tables import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Found = dict[str, Any]

# Who was tested with which relaxation: colour, marker, offset, label.
WAYS = {
    ("variant", "common"): (style.COLORS["bptt"], "o", 0.0, "trained so, tested in common"),
    ("variant", "own"): (style.OTHER_COLORS[0], "D", -0.22, "trained so, tested so"),
    ("common", "own"): (style.COLORS["control"], "v", 0.22, "trained in common, tested so"),
}
UNCHANGED = "hollow: no epoch of BPTT validated better than what it started from"
CAPTION = (
    "ΔQ: mean over held-out structures, √u·Å; in brackets the 95% interval over structures. Own: tested with the "
    "changed relaxation. Step: share of the step size's limit of stability at the stiffest training structure."
)


def draw(folder: Path, results: Found) -> None:
    """Draw into ``folder/figures``."""
    style.save(sensitivity(results), folder / "figures", "sensitivity")


def sensitivity(results: Found) -> "Figure":
    """One row per variant: Delta Q on the test structures, every way of testing it, against the common settings.

    Args:
        results: as in ``results.json``.
    """
    rows = _rows(results)
    with style.drawing():
        figure = style.new_figure(8.0, 1.6 + 0.24 * len(rows))
        axes = figure.subplots()
        _levels(axes, results)
        for y, (name, group) in enumerate(rows):
            if name is None:
                axes.text(
                    0.0,
                    y,
                    group,
                    transform=axes.get_yaxis_transform(),
                    fontweight="bold",
                    va="center",
                    ha="right",
                    fontsize=8.5,
                )
                continue
            _points(axes, results["variants"][name], y)
        axes.set_yticks(
            [y for y, (name, _) in enumerate(rows) if name],
            [results["variants"][name]["label"] for name, _ in rows if name],
        )
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(style.DELTA_Q + ", test structures")
        axes.grid(axis="x")
        _key(figure)
    return figure


def _rows(results: Found) -> list[tuple[str | None, str]]:
    """A heading for each group, then its variants."""
    rows: list[tuple[str | None, str]] = []
    variants = results["variants"]
    for group, names in groupby(variants, key=lambda name: variants[name]["group"]):
        rows.append((None, group))
        rows += [(name, group) for name in names]
    return rows


def _levels(axes: "Axes", results: Found) -> None:
    """The pretrained model, and the range of the common settings over seeds."""
    before = results["pretrained"]["test"]["delta_q"]["mean"]
    seeds = over_seeds(results["common"]["test"])
    axes.axvspan(min(seeds), max(seeds), color="#CFE3F1", lw=0, zorder=0)
    axes.axvline(sum(seeds) / len(seeds), color=style.COLORS["bptt"], lw=1.0, zorder=1)
    axes.axvline(before, color=style.COLORS["pretrained"], lw=1.0, ls=":", zorder=1)
    for x, text, tint in (
        (before, "pretrained", style.COLORS["pretrained"]),
        (sum(seeds) / len(seeds), f"common settings, {len(seeds)} seeds", style.COLORS["bptt"]),
    ):
        axes.annotate(
            text,
            (x, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=tint,
            fontsize=8.0,
        )


def _points(axes: "Axes", variant: Found, y: float) -> None:
    # A model that no epoch of BPTT improved on validation is the one that it started from.
    unchanged = variant.get("best_epoch", {}).get("bptt") == 0
    for way, (tint, shape, offset, _) in WAYS.items():
        value = tested(variant, *way, "test")
        if value is not None:
            inside = "white" if unchanged and way[0] == "variant" else tint
            axes.plot(value["mean"], y + offset, shape, color=tint, mfc=inside, ms=5.0, mew=1.0, zorder=3)


def _key(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="none", marker=shape, color=tint, mew=1.0, ms=5.0, label=label)
        for tint, shape, _, label in WAYS.values()
    ]
    handles.append(
        Line2D([], [], ls="none", marker="o", color="0.3", mfc="white", mew=1.0, ms=5.0, label=UNCHANGED)
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def tested(variant: Found, model: str, relaxation: str, part: str) -> Found | None:
    """Delta Q of the variant's or the common model, tested with the variant's own or the common relaxation.

    Args:
        variant: an entry of ``results["variants"]``.
        model: "variant", "common" or "pretrained".
        relaxation: "own" or "common".
        part: "test" or "unseen".
    """
    if relaxation == "common":
        block = variant if model == "variant" else {}
    else:
        block = variant.get("tested_with_own", {}).get(model, {})
    return block[part]["delta_q"] if part in block else None


def over_seeds(block: Found) -> list[float]:
    """Mean Delta Q over the structures, one value per seed."""
    each = list(block["delta_q"]["per_seed"].values())
    return [sum(values) / len(each) for values in zip(*each, strict=True)]


def table(results: Found) -> Grid:
    """One row per variant.

    Args:
        results: as in ``results.json``.
    """
    headings = (
        "",
        "setting",
        "ΔQ test",
        "ΔQ unseen",
        "own, test",
        "common model\nown, test",
        "skipped",
        "step",
    )
    rows = [
        (
            "pretrained",
            "",
            *(_cell(results["pretrained"].get(p)) for p in ("test", "unseen")),
            "–",
            "–",
            "–",
            "–",
        ),
        ("common", "", *(_cell(results["common"].get(p)) for p in ("test", "unseen")), "–", "–", "–", "–"),
    ]
    for variant in results["variants"].values():
        skipped = variant.get("skipped")
        rows.append(
            (
                variant["group"],
                variant["label"],
                *(_mean(tested(variant, "variant", "common", part)) for part in ("test", "unseen")),
                _mean(tested(variant, "variant", "own", "test")),
                _mean(tested(variant, "common", "own", "test")),
                "–" if skipped is None else str(sum(skipped.values())),
                _share(variant.get("stability")),
            )
        )
    return Grid(
        "One setting changed at a time",
        headings,
        tuple(tuple((c, False) for c in r) for r in rows),
        (CAPTION,),
    )


def _cell(block: Found | None) -> str:
    if block is None:
        return "–"
    low, high = block["delta_q"]["ci95"]
    return f"{block['delta_q']['mean']:.2f} ({low:.2f}..{high:.2f})"


def _mean(found: Found | None) -> str:
    return "–" if found is None else f"{found['mean']:.2f}"


def _share(stability: Found | None) -> str:
    return "–" if stability is None else f"{stability['largest'] / stability['limit']:.0%}"
