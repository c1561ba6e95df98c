"""The figure of docs/choosing-an-adjoint.md: what each strategy costs and what it gets wrong. Measures nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks import analysis
from benchmarks.presets import CHGNET, SW
from benchmarks.schema import Comparison, Convergence, Results
from bptt_relax.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "adjoint-costs"
ATOMS = 63
ROUNDING = 1e-12
"""Errors and forces below are those of double precision and say nothing about a strategy."""


class Look(NamedTuple):
    """How one entry is drawn, the same in every panel."""

    label: str
    color: str
    dashes: str = "-"
    marker: str = "o"


LOOKS = {
    "full": Look("full", "#7A7A7A"),
    "step": Look("step", "#56B4E9"),
    "force": Look("force", "#0072B2"),
    "segments": Look("segments", "#009E73"),
    "equinox": Look("equinox", "#009E73", "--"),
    "implicit": Look("implicit", "#D98200"),
    "optimistix": Look("optimistix", "#D98200", "--"),
    "guided": Look("guided", "#CC79A7"),
    "first": Look("first 8", "#B8A800"),
    "last": Look("last 8", "#B8A800", "--"),
    "torch": Look("torch", style.INK, "", "D"),
    "torch-checkpointed": Look("torch, checkpointed", style.INK, "", "s"),
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Write the figure as PNG and SVG.

    Args:
        results: the measurements; panels without any stay empty and say so.
        folder: created where absent.
    """
    with style.drawing():
        figure = style.new_figure(9.6, 7.0)
        panels = figure.subplots(2, 2)
        _memory(panels[0, 0], results, CHGNET, "Memory: CHGNet, 63 atoms", ("full", "step", "force"))
        names = ("full", "step", "force", "segments", "implicit", "equinox")
        _memory(panels[0, 1], results, SW, "Memory: Stillinger-Weber, 63 atoms", names)
        _time(panels[1, 0], results)
        _error(panels[1, 1], results.convergence)
        _space(figure)
    return style.save(figure, folder, NAME)


def _space(figure: "Figure") -> None:
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.08)


def _memory(axes: "Axes", results: Results, model: str, title: str, names: tuple[str, ...]) -> None:
    """Scratch memory against the number of steps; torch's, which has no plan, as it was seen."""
    axes.set_title(title)
    axes.set_xlabel("steps T")
    axes.set_ylabel("memory")
    group = _group(results, model)
    ends = []
    for name in names:
        points = [(c.steps, m.temp_bytes) for c in group if (m := c.get(name)) and m.temp_bytes]
        ends += _line(axes, points, LOOKS[name])
    for name in ("torch", "torch-checkpointed"):
        for c in group:
            measured = c.get(name)
            if measured and measured.peak_bytes:
                _point(axes, c.steps, measured.peak_bytes, LOOKS[name])
    _finish(axes, ends, group, _byte_ticks)


def _time(axes: "Axes", results: Results) -> None:
    """Time of value and gradient over that of the forward relaxation."""
    axes.set_title("Time: Stillinger-Weber, 63 atoms")
    axes.set_xlabel("steps T")
    axes.set_ylabel("value and gradient / forward")
    group = _group(results, SW)
    ends = []
    for name in ("full", "step", "force", "equinox", "implicit", "guided", "last"):
        spreads = [(c.steps, analysis.ratio(c, name, "forward")) for c in group]
        ends += _line(axes, [(steps, s.middle) for steps, s in spreads if s], LOOKS[name])
    if group:
        axes.axhline(1.0, color=style.MUTED, lw=0.8, ls=":")
    _finish(axes, ends, group, style.plain_log_ticks)


def _error(axes: "Axes", convergence: Convergence | None) -> None:
    """Error of each gradient against the length of the relaxation, and how far that has converged."""
    axes.set_title("Error: Stillinger-Weber" + (f", {convergence.atoms} atoms" if convergence else ""))
    axes.set_xlabel("steps T")
    axes.set_ylabel("distance to the minimum's gradient")
    if convergence is None:
        _empty(axes)
        return
    axes.set_yscale("log")
    axes.set_xlim(0, convergence.steps[-1])
    ends = []
    for name, errors in convergence.errors.items():
        look = LOOKS[name] if name != "force" else LOOKS[name]._replace(label="unrolled")
        known = zip(convergence.steps, errors, strict=True)
        points = [(steps, error) for steps, error in known if error is not None and error > ROUNDING]
        ends += _line(axes, points, look, size=0.0)
    points = [(s, f) for s, f in zip(convergence.steps, convergence.max_force, strict=True) if f > ROUNDING]
    ends += _line(axes, points, Look("force (eV/Å)", style.MUTED, ":"), size=0.0)
    _powers_of_ten(axes.yaxis)
    axes.grid(axis="y")
    _label(axes, ends)


def _group(results: Results, model: str) -> list[Comparison]:
    chosen = [c for c in results.comparisons if c.model == model and c.atoms == ATOMS]
    return sorted(chosen, key=lambda c: c.steps)


def _line(axes: "Axes", points: list[tuple[float, float]], look: Look, size: float = 4.0) -> list[tuple]:
    """One line; its end as `style.label_ends` wants it, or nothing where there are no points."""
    if not points:
        return []
    x, y = zip(*points, strict=True)
    axes.plot(x, y, look.dashes, color=look.color, marker=look.marker, ms=size, mew=0)
    return [(x[-1], y[-1], look.label, look.color)]


def _point(axes: "Axes", x: float, y: float, look: Look) -> None:
    axes.plot(x, y, ls="none", marker=look.marker, ms=5.5, mfc="white", mec=look.color, mew=1.3)
    # Below on the right, where a line that rises through the point does not go.
    axes.annotate(look.label, (x, y), xytext=(6, -12), textcoords="offset points", color=look.color)


def _finish(axes: "Axes", ends: list[tuple], group: list[Comparison], ticks: Callable[[Any], None]) -> None:
    if not ends:
        _empty(axes)
        return
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shortest, longest = group[0].steps, group[-1].steps
    steps = [t for t in (4, 16, 64, 256, 1024, 4096) if shortest <= t <= longest] or [shortest]
    axes.set_xticks(steps, [str(t) for t in steps])
    axes.minorticks_off()
    ticks(axes.yaxis)
    axes.grid(axis="y")
    _label(axes, ends)


def _label(axes: "Axes", ends: list[tuple]) -> None:
    """Name the lines, once the limits that place the names are final."""
    axes.set_ylim(axes.get_ylim())
    style.label_ends(axes, ends)


def _byte_ticks(axis: Any) -> None:
    """Ticks at 1, 10 and 100 kB, MB, GB."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def written(size: float, _) -> str:
        power = min(3, max(1, int(np.log10(size) / 3 + 1e-9)))
        return f"{size / 1000**power:g} {('kB', 'MB', 'GB')[power - 1]}"

    axis.set_major_locator(LogLocator(base=10, numticks=12))
    axis.set_minor_locator(LogLocator(base=10, subs=tuple(range(2, 10)), numticks=12))
    axis.set_major_formatter(FuncFormatter(written))
    axis.set_minor_formatter(NullFormatter())


def _powers_of_ten(axis: Any) -> None:
    """Powers in plain characters: nothing here is set as mathematics."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    axis.set_major_locator(LogLocator(base=10, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda x, _: "10" + str(round(np.log10(x))).translate(raised)))
    axis.set_minor_formatter(NullFormatter())


def _empty(axes: "Axes") -> None:
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=style.MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
