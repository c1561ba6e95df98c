"""How every figure looks: colours, type, spines. matplotlib is imported only once something is drawn."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with any of the common colour deficiencies can tell apart.
COLORS = {
    "pretrained": "#7A7A7A",
    "force_matching": "#D98200",
    "control": "#D98200",
    "bptt": "#0072B2",
    "reference": "#222222",
}
MARKERS = {"pretrained": "o", "force_matching": "D", "bptt": "o", "reference": "s"}
OTHER_COLORS = ("#009E73", "#CC79A7", "#56B4E9", "#B8A800")

BETTER = COLORS["bptt"]
WORSE = "#C4400B"
FAINT = "#D9D9D9"
INK = "#222222"
MUTED = "#666666"

DELTA_Q = "ΔQ to the DFT structure (√u·Å)"

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#EAEAEA",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Text stays text, and two drawings of the same numbers are the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "bptt_relax",
    "text.parse_math": False,
}


@contextmanager
def drawing() -> Iterator[None]:
    """This style and nothing global: matplotlib's settings are back as they were when it ends."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure that no window system knows of.

    Args:
        width: inches.
        height: inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", folder: str | os.PathLike[str], name: str) -> list[Path]:
    """Write a figure as ``name.png`` (150 dpi) and ``name.svg``.

    Args:
        figure: any.
        folder: created where absent.
        name: without a suffix.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with drawing():
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def color(stage: str, order: int = 0) -> str:
    """The colour of a stage, the same in every figure; ``order`` picks among the others for an unknown one."""
    return COLORS.get(stage, OTHER_COLORS[order % len(OTHER_COLORS)])


def marker(stage: str) -> dict[str, Any]:
    """Shape and filling of a stage's points: told apart without colour as well."""
    filled = stage != "pretrained"
    return {
        "marker": MARKERS.get(stage, "o"),
        "markersize": 4.5 if stage == "force_matching" else 6.0,
        "markerfacecolor": color(stage) if filled else "white",
        "markeredgecolor": color(stage),
        "markeredgewidth": 0.0 if filled else 1.3,
    }


def plain_log_ticks(axis: Any) -> None:
    """Ticks at 1, 2, 5 of every decade, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(LogLocator(base=10, subs=tuple(range(1, 10))))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def decade_ticks(axis: Any) -> None:
    """Ticks at powers of ten, at most a handful, written with their exponents."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    axis.set_major_locator(LogLocator(base=10, numticks=6))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"10{f'{round(math.log10(x))}'.translate(raised)}"))


def level(axes: "Axes", height: float, stage: str) -> None:
    """A dotted level for a stage that does not depend on what is drawn, its name at the right end."""
    axes.axhline(height, color=color(stage), lw=1.0, ls=":", zorder=1)
    axes.annotate(
        stage,
        (0.99, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color=color(stage),
    )


def label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]], *, gap: float = 0.065) -> None:
    """Write each line's name to the right of the axes at the height of its end, moved apart where they overlap.

    Args:
        axes: with its limits and scales already set.
        ends: x, y, text and colour of each line's end.
        gap: least distance between two labels of one line, as a fraction of the axes' height.
    """
    to_fraction = axes.transData + axes.transAxes.inverted()
    placed = sorted(
        ((to_fraction.transform((x, y))[1], text, tint) for x, y, text, tint in ends), key=lambda e: e[0]
    )
    # Half of each label and half of its neighbor must fit between them.
    halves = [gap * (1 + text.count("\n")) / 2 for _, text, _ in placed]
    heights = [height for height, _, _ in placed]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + halves[i - 1] + halves[i])
    for i in reversed(range(len(heights))):
        ceiling = heights[i + 1] - halves[i + 1] if i + 1 < len(heights) else 1.0 + gap / 2
        heights[i] = min(heights[i], ceiling - halves[i])
    for (_, text, tint), height in zip(placed, heights, strict=True):
        axes.text(1.025, height, text, color=tint, transform=axes.transAxes, va="center", linespacing=1.15)
