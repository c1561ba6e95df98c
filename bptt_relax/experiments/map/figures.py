"""What training changes in the map, in one figure, and a table; from saved numbers only."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt_relax.report import style
from bptt_relax.report.names import STAGES, readable, stage_label
from bptt_relax.report.tables import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
"""Of the bins of stiffness, eV/angstrom^2; what is softer than the first, or unstable, counts as the first."""

CAPTION = (
    "Means over held-out structures. Residual: largest force at the DFT structure. Shift: ΔQ between the DFT structure "
    "and the fixed point it relaxes to. Radius, norm: of a step at that fixed point, off translations, on which both "
    "are 1. Back: share of DFT structures, rattled by {rattle:g} Å, that return."
)


def draw(folder: Path, results: dict[str, Any]) -> None:
    """Draw into ``folder/figures``."""
    style.save(the_map(results), folder / "figures", "map")


def the_map(results: dict[str, Any]) -> "Figure":
    """Six panels: paths, convergence, residual and shift by stiffness, contraction, basin.

    Args:
        results: as in ``results.json``.
    """
    panels: tuple[Callable[[Axes, dict[str, Any]], None], ...] = (
        _plane,
        _residual,
        _shift,
        _convergence,
        _contraction,
        _basin,
    )
    with style.drawing():
        figure = style.new_figure(11.0, 7.0)
        for axes, panel, letter in zip(figure.subplots(2, 3).flat, panels, "abcdef", strict=True):
            panel(axes, results)
            axes.set_title(f"{letter}   {axes.get_title(loc='left')}")
        _key(figure, results)
    return figure


def _stages(results: dict[str, Any]) -> list[str]:
    return [stage for stage in STAGES if stage in results["models"]]


def _plane(axes: "Axes", results: dict[str, Any]) -> None:
    """One start, three maps, three fixed points."""
    shown = results["plane"]
    axes.set_title("One start, one map per model")
    for order, stage in enumerate(_stages(results)):
        path = np.array(shown["paths"][stage])
        tint = style.color(stage)
        axes.plot(*path.T, color=tint, lw=1.3, marker="o", ms=2.2, mew=0, zorder=3 + order)
        axes.plot(*path[-1], zorder=6 + order, ls="none", **style.marker(stage))
    start = np.array(shown["paths"][_stages(results)[0]])[0]
    axes.plot(*start, marker="o", ms=6, color="white", mec=style.INK, mew=1.2, zorder=9)
    axes.annotate("start", start, xytext=(7, 2), textcoords="offset points", color=style.INK)
    axes.plot(0, 0, marker="*", ms=13, color=style.INK, mew=0, zorder=10)
    axes.annotate("DFT", (0, 0), xytext=(0, -15), textcoords="offset points", color=style.INK, ha="center")
    axes.set_xlabel("towards the pretrained end (√u·Å)")
    axes.set_ylabel("towards the start (√u·Å)")
    axes.margins(0.16)
    axes.text(
        0.98,
        0.03,
        readable(shown["structure"]),
        transform=axes.transAxes,
        ha="right",
        color=style.MUTED,
        fontsize=7.5,
    )


def _by_stiffness(maps: dict[str, Any], value: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[float]:
    """Root mean square over the modes of all structures in each bin of a value; NaN where there are none."""
    stiffness = np.concatenate([one["residual"]["stiffness"] for one in maps.values()])
    force = np.concatenate([one["residual"]["force"] for one in maps.values()])
    bins = np.clip(np.digitize(stiffness, EDGES) - 1, 0, len(EDGES) - 2)
    values = value(stiffness, force)
    return [
        float(np.sqrt(np.mean(values[bins == k] ** 2))) if np.any(bins == k) else float("nan")
        for k in range(len(EDGES) - 1)
    ]


def _stiffness_panel(axes: "Axes", results: dict[str, Any], value) -> None:
    places = np.arange(len(EDGES) - 1)
    for order, stage in enumerate(_stages(results)):
        found = _by_stiffness(results["models"][stage], value)
        axes.plot(places, found, color=style.color(stage), zorder=3 + order, **style.marker(stage))
    labels = [f"{low:g}–{high:g}" for low, high in pairwise(EDGES)]
    axes.set_xticks(places, [f"<{EDGES[1]:g}", *labels[1:-1], f">{EDGES[-2]:g}"])
    axes.set_xlabel("stiffness of the mode (eV/Å²)")
    axes.grid(axis="y")
    axes.set_ylim(bottom=0)


def _residual(axes: "Axes", results: dict[str, Any]) -> None:
    axes.set_title("Residual force at the DFT structure")
    _stiffness_panel(axes, results, lambda stiffness, force: 1000 * force)
    axes.set_ylabel("force along a mode, rms (meV/Å)")


def _shift(axes: "Axes", results: dict[str, Any]) -> None:
    axes.set_title("… over stiffness: the shift it makes")
    # A mode below the first edge may be unstable, where a linear force says nothing about distances.
    _stiffness_panel(
        axes, results, lambda stiffness, force: 1000 * force / np.maximum(np.abs(stiffness), 0.25)
    )
    axes.set_ylabel("force / stiffness, rms (mÅ)")


def _convergence(axes: "Axes", results: dict[str, Any]) -> None:
    """Geometric means over the structures that converge; one that has ended stays where it is."""
    axes.set_title("Convergence")
    longest = 0
    for order, stage in enumerate(_stages(results)):
        curves = [one["convergence"] for one in results["models"][stage].values()]
        steps = max(len(curve["to_reference"]) for curve in curves)
        longest = max(longest, steps)
        for key, dashes in (("to_reference", "-"), ("to_end", (0, (2, 1.5)))):
            axes.plot(
                _geometric([curve[key] for curve in curves], steps),
                color=style.color(stage),
                ls=dashes,
                lw=1.5,
                zorder=3 + order,
            )
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.02)
    axes.set_xlim(0, longest)
    style.plain_log_ticks(axes.yaxis)
    axes.grid(axis="y")
    axes.set_xlabel("step")
    axes.set_ylabel("ΔQ, geometric mean (√u·Å)")
    axes.plot([], [], color=style.INK, label="to the DFT structure")
    axes.plot([], [], color=style.INK, ls=(0, (2, 1.5)), label="to its own end")
    axes.legend(loc="upper right")


def _geometric(curves: Sequence[Sequence[float]], steps: int) -> np.ndarray:
    held = np.array([[*curve, *[curve[-1]] * (steps - len(curve))] for curve in curves])
    # An end is at distance zero of itself.
    return np.exp(np.mean(np.log(np.maximum(held, 1e-3)), axis=0))


def _contraction(axes: "Axes", results: dict[str, Any]) -> None:
    axes.set_title("Contraction at the fixed point")
    stages = _stages(results)
    for place, key in enumerate(("radius", "norm")):
        for order, stage in enumerate(stages):
            values = [one["fixed_point"][key] for one in results["models"][stage].values()]
            x = place + 0.22 * (order - (len(stages) - 1) / 2)
            spread = np.linspace(-0.05, 0.05, len(values)) if len(values) > 1 else [0.0]
            axes.plot(x + np.array(spread), values, "o", color=style.color(stage), alpha=0.35, ms=3.5, mew=0)
            axes.plot([x - 0.08, x + 0.08], [np.mean(values)] * 2, color=style.color(stage), lw=2.4)
    slowest = _damped(results)
    if slowest is not None:
        axes.axhline(slowest, color=style.FAINT, lw=4.0, zorder=0)
        axes.annotate(
            "the least that momentum allows", (0.98, slowest), xycoords=axes.get_yaxis_transform(), xytext=(0, -5),
            textcoords="offset points", color=style.MUTED, fontsize=7.5, ha="right", va="top",
        )  # fmt: skip
        axes.margins(y=0.1)
    axes.axhline(1.0, color=style.INK, lw=0.8, ls=(0, (4, 3)))
    axes.annotate(
        "on translations: exactly 1", (0.98, 1.0), xycoords=axes.get_yaxis_transform(), xytext=(0, 3),
        textcoords="offset points", color=style.INK, fontsize=7.5, ha="right",
    )  # fmt: skip
    axes.set_xlim(-0.55, 1.55)
    axes.set_xticks([0, 1], ["spectral radius", "operator norm"])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("growth of a difference per step")
    axes.grid(axis="y")


def _damped(results: dict[str, Any]) -> float | None:
    """Spectral radius of a heavy ball in every mode stiff enough to swing; None for other rules."""
    relaxation = (results.get("config") or {}).get("relaxation") or {}
    if relaxation.get("rule") != "momentum" or relaxation.get("mix") != "heavy_ball":
        return None
    return float(np.sqrt(relaxation["decay"]))


def _basin(axes: "Axes", results: dict[str, Any]) -> None:
    axes.set_title("Basin: DFT structures, rattled")
    for order, stage in enumerate(_stages(results)):
        rattles, shares = _shares(results["models"][stage])
        axes.plot(rattles, 100 * shares, color=style.color(stage), zorder=3 + order, **style.marker(stage))
    axes.set_ylim(-4, 104)
    axes.set_xlim(left=0)
    axes.set_xlabel("rattle, standard deviation (Å)")
    axes.set_ylabel("back within 0.25 Å (%)")
    axes.grid(axis="y")


def _shares(maps: dict[str, Any]) -> tuple[list[float], np.ndarray]:
    basins = [one["basin"] for one in maps.values()]
    rattles = [entry["rattle"] for entry in basins[0]]
    return rattles, np.mean([[entry["to_reference"] for entry in basin] for basin in basins], axis=0)


def _key(figure: "Figure", results: dict[str, Any]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=style.color(stage), label=stage_label(stage), **style.marker(stage))
        for stage in _stages(results)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


def table(results: dict[str, Any]) -> Grid:
    """One row per model.

    Args:
        results: as in ``results.json``.
    """
    headings = (
        "",
        "residual\neV/Å",
        "step\nÅ",
        "shift\nΔQ",
        "end\nΔQ",
        "same\nbasin",
        "radius",
        "norm",
        "steps",
    )
    headings += ("back",)
    largest = 0.0
    rows = []
    for stage in _stages(results):
        one = list(results["models"][stage].values())
        rattles, shares = _shares(results["models"][stage])
        largest = rattles[len(rattles) // 2]

        def mean(*keys: str, one=one) -> float:
            values = [s[keys[0]][keys[1]] for s in one]
            return float(np.mean(values))

        cells = (
            stage_label(stage),
            f"{mean('residual', 'max_force'):.3f}",
            f"{mean('residual', 'step'):.4f}",
            f"{mean('fixed_point', 'delta_q'):.2f}",
            f"{np.mean([s['convergence']['to_reference'][-1] for s in one]):.2f}",
            f"{100 * mean('convergence', 'same_basin'):.0f}%",
            f"{mean('fixed_point', 'radius'):.3f}",
            f"{mean('fixed_point', 'norm'):.3f}",
            f"{np.mean([len(s['convergence']['to_reference']) - 1 for s in one]):.0f}",
            f"{100 * shares[len(rattles) // 2]:.0f}%",
        )
        rows.append(tuple((cell, False) for cell in cells))
    title = f"The map around {len(results['structures'])} held-out structures"
    return Grid(title, headings, tuple(rows), (CAPTION.format(rattle=largest),))
