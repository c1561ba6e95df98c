"""The figure and the table of the preference experiment, from saved numbers only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt_relax.report import style
from bptt_relax.report.tables import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Found = dict[str, Any]
POTENTIAL, RULE = style.COLORS["bptt"], style.COLORS["force_matching"]
CAPTION = (
    "ΔQ: mean over held-out structures, √u·Å. Ends moved: mean distance of the relaxed structures from those of the "
    "model BPTT started from, with one part of the trained model at a time. Moved: relative change of the potential's "
    "parameters; root mean square change of the rule's logarithms and logits."
)


def draw(folder: Path, results: Found) -> None:
    """Draw into ``folder/figures``."""
    style.save(preference(results), folder / "figures", "preference")


def preference(results: Found) -> "Figure":
    """What the end depends on against the number of steps; how far each part moves the ends; what is gained.

    Args:
        results: as in ``results.json``.
    """
    with style.drawing():
        figure = style.new_figure(12.5, 0.5 * len(results["arms"]) + 2.2)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.0, 1.1, 1.1))
        _sensitivity(left, results["sensitivity"])
        _shifts(middle, results["arms"])
        _gains(right, results)
    return figure


def _sensitivity(axes: "Axes", found: Found) -> None:
    axes.set_title("What ΔQ depends on")
    for part, tint, shape, label in (
        ("potential", POTENTIAL, "o", "potential"),
        ("rule", RULE, "D", "rule"),
    ):
        lines = np.array([each[part] for each in found["per_structure"].values()])
        for line in lines:
            axes.plot(found["steps"], line, color=tint, lw=0.7, alpha=0.4)
        mean = np.exp(np.mean(np.log(np.maximum(lines, 1e-12)), axis=0))
        axes.plot(found["steps"], mean, color=tint, marker=shape, ms=4.5, mew=0, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(found["steps"], [str(step) for step in found["steps"]])
    style.decade_ticks(axes.yaxis)
    axes.minorticks_off()
    axes.set_xlabel("steps of the relaxation")
    axes.set_ylabel("change of ΔQ per relative change (√u·Å)")
    axes.grid()
    axes.legend(loc="lower left", fontsize=8.0)


def _shifts(axes: "Axes", arms: Found) -> None:
    axes.set_title("What moves the ends")
    for y, arm in enumerate(arms.values()):
        for which, tint, shape in (("potential_alone", POTENTIAL, "o"), ("rule_alone", RULE, "D")):
            for stop, filled, offset in (("horizon", False, -0.13), ("converged", True, 0.13)):
                value = shift(arm, stop, which)
                face = tint if filled else "white"
                axes.plot(value, y + offset, shape, mec=tint, mfc=face, ms=5.5, mew=1.1)
    _rows(axes, arms)
    axes.set_xlabel("by how much (√u·Å)\nopen: where training stops, filled: converged")


def _gains(axes: "Axes", results: Found) -> None:
    axes.set_title("What is gained")
    before = results["pretrained"]["test"]["delta_q"]["mean"]
    axes.axvline(before, color=style.COLORS["pretrained"], lw=1.0, ls=":")
    axes.annotate(
        "pretrained",
        (before, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-3, -10),
        textcoords="offset points",
        ha="right",
        fontsize=8.0,
        color=style.COLORS["pretrained"],
    )
    for y, arm in enumerate(results["arms"].values()):
        start, trained = arm["start"]["test"]["delta_q"], arm["trained"]["test"]["delta_q"]
        axes.plot([start["mean"], trained["mean"]], [y, y], color=style.FAINT, lw=2.0, zorder=1)
        axes.plot(start["mean"], y, "D", color=style.COLORS["force_matching"], mfc="white", ms=5.0, zorder=2)
        axes.plot(trained["mean"], y, "o", color=POTENTIAL, ms=6.0, mew=0, zorder=3)
    _rows(axes, results["arms"])
    axes.set_yticklabels([])
    axes.set_xlabel(f"{style.DELTA_Q}, test\nopen: before BPTT, filled: after")


def _rows(axes: "Axes", arms: Found) -> None:
    axes.set_yticks(range(len(arms)), [arm["label"] for arm in arms.values()])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def shift(arm: Found, stop: str, which: str) -> float:
    """Mean over seeds of how far a part moves the ends.

    Args:
        arm: an entry of ``results["arms"]``.
        stop: "horizon" or "converged".
        which: "trained", "potential_alone" or "rule_alone".
    """
    return float(np.mean([seed["end_shift"][stop][which] for seed in arm["seeds"]]))


def table(results: Found) -> Grid:
    """One row per arm.

    Args:
        results: as in ``results.json``.
    """
    headings = ("", "ΔQ test\nbefore", "after", "ΔQ unseen\nafter", "potential\nmoved %", "rule\nmoved")
    headings += ("ends moved by\npotential", "ends moved by\nrule")
    rows = []
    for arm in results["arms"].values():
        moved = [seed["movement"] for seed in arm["seeds"]]
        unseen = arm["trained"].get("unseen")
        rows.append(
            (
                arm["label"],
                f"{arm['start']['test']['delta_q']['mean']:.3f}",
                f"{arm['trained']['test']['delta_q']['mean']:.3f}",
                "–" if unseen is None else f"{unseen['delta_q']['mean']:.3f}",
                f"{100 * np.mean([m['potential'] for m in moved]):.2f}",
                f"{np.mean([m['rule'] for m in moved]):.3f}",
                f"{shift(arm, 'converged', 'potential_alone'):.3f}",
                f"{shift(arm, 'converged', 'rule_alone'):.3f}",
            )
        )
    return Grid("What trains", headings, tuple(tuple((c, False) for c in r) for r in rows), (CAPTION,))
