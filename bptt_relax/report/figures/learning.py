"""How training went: validation and loss against training time."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt_relax.report import style
from bptt_relax.report.curves import Curve, learning, moving_average
from bptt_relax.report.names import stage_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LOSS_UNITS = {"force_matching": "(eV/Å)²", "bptt": "√u·Å"}


def learning_curves(events: list[dict[str, Any]]) -> "Figure":
    """Validation Delta Q of all stages, and the training loss of each kind of stage.

    Force matching and BPTT minimize different losses, which can't be compared: only the validation can.

    Args:
        events: of ``metrics.jsonl``.
    """
    curves = learning(events)
    unit, per_unit = _time_unit(max((curve.end for curve in curves), default=1.0))
    losses = [group for group in (("force_matching", "control"), ("bptt",)) if _steps(curves, group)]
    with style.drawing():
        figure = style.new_figure(9.2 if losses else 6.0, 4.0)
        grid = figure.add_gridspec(
            max(len(losses), 1), 2 if losses else 1, width_ratios=(1.5, 1) if losses else None
        )
        axes = figure.add_subplot(grid[:, 0])
        _validation(axes, curves, per_unit)
        axes.set_xlabel(f"training time ({unit})")
        for i, stages in enumerate(losses):
            panel = figure.add_subplot(grid[i, 1], sharex=axes)
            _loss(panel, [curve for curve in curves if curve.stage in stages], per_unit)
            panel.set_title(f"Training loss: {stage_label(stages[0])}")
            panel.set_ylabel(f"loss ({LOSS_UNITS[stages[0]]})")
            if i == len(losses) - 1:
                panel.set_xlabel(f"training time ({unit})")
            else:
                panel.tick_params(axis="x", labelbottom=False)
    return figure


def _steps(curves: list[Curve], stages: tuple[str, ...]) -> bool:
    return any(curve.steps for curve in curves if curve.stage in stages)


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds < 600:
        return "s", 1.0
    return ("min", 60.0) if seconds < 4 * 3600 else ("h", 3600.0)


def _validation(axes: "Axes", curves: list[Curve], per_unit: float) -> None:
    axes.set_title("Validation, mean over structures")
    axes.set_ylabel(style.DELTA_Q)
    axes.grid(axis="y")
    ends = []
    for order, stage in enumerate(dict.fromkeys(curve.stage for curve in curves)):
        group = [curve for curve in curves if curve.stage == stage and curve.epochs]
        if not group:
            continue
        tint, dashes = style.color(stage, order), "--" if stage == "control" else "-"
        for curve in group:
            x, y = _line(curve, per_unit)
            alone = len(group) == 1
            axes.plot(x, y, dashes, color=tint, lw=1.8 if alone else 0.8, alpha=1.0 if alone else 0.35)
        x, y = _mean_line(group, per_unit)
        if len(group) > 1:
            axes.plot(x, y, dashes, color=tint, lw=2.4)
        ends.append((stage, (float(x[-1]), float(y[-1]), stage_label(stage).replace(", ", ",\n"), tint)))
    starts = [
        curve.epochs[0][2]
        for curve in curves
        if curve.epochs and curve.epochs[0][0] == 0 and not curve.offset
    ]
    if starts:
        axes.axhline(starts[0], color=style.COLORS["pretrained"], lw=1.0, ls=":", zorder=1)
        axes.annotate(
            "pretrained",
            (0.0, starts[0]),
            xytext=(3, 3),
            textcoords="offset points",
            color=style.COLORS["pretrained"],
        )
    axes.set_ylim(bottom=0.0, top=1.08 * axes.get_ylim()[1])
    axes.set_xlim(0.0, max((curve.end for curve in curves), default=0.0) / per_unit or 1.0)
    _mark_bests(axes, curves, per_unit)
    stages = [stage for stage, _ in ends]
    # Where the control goes on from force matching, one label at its end names both.
    style.label_ends(
        axes, [end for stage, end in ends if stage != "force_matching" or "control" not in stages]
    )


def _line(curve: Curve, per_unit: float) -> tuple[np.ndarray, np.ndarray]:
    seconds = np.array([seconds for _, seconds, _ in curve.epochs])
    return (curve.offset + seconds) / per_unit, np.array([value for *_, value in curve.epochs])


def _mean_line(group: list[Curve], per_unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds, as far as all of them went."""
    lines = [_line(curve, per_unit) for curve in group]
    length = min(len(x) for x, _ in lines)
    return np.mean([x[:length] for x, _ in lines], axis=0), np.mean([y[:length] for _, y in lines], axis=0)


def _mark_bests(axes: "Axes", curves: list[Curve], per_unit: float) -> None:
    """Needs final limits: its labels are placed by them."""
    stages = [curve.stage for curve in curves]
    for curve in curves:
        tint = style.color(curve.stage, list(dict.fromkeys(stages)).index(curve.stage))
        _mark_best(axes, curve, per_unit, tint, write=stages.count(curve.stage) == 1)


def _mark_best(axes: "Axes", curve: Curve, per_unit: float, tint: str, *, write: bool) -> None:
    """A ring where the model that was kept comes from; none where that is the one the stage started from."""
    if curve.best is None or curve.best[0] == 0:
        return
    epoch, seconds, value = curve.best
    x = (curve.offset + seconds) / per_unit
    size, edge = (7.0, 1.4) if write else (4.0, 0.9)
    axes.plot(x, value, "o", ms=size, mfc="white", mec=tint, mew=edge, zorder=5, clip_on=False)
    if write:
        across, up = (axes.transData + axes.transAxes.inverted()).transform((x, value))
        # Left of the ring, where a falling curve leaves room, but not across the axis.
        axes.text(
            max(across - 0.012, 0.19),
            up - 0.03,
            f"best, epoch {epoch}",
            transform=axes.transAxes,
            color=tint,
            fontsize=8.0,
            ha="right",
            va="top",
        )


def _loss(axes: "Axes", curves: list[Curve], per_unit: float) -> None:
    axes.grid(axis="y")
    positive = True
    for order, curve in enumerate(curves):
        if not curve.steps:
            continue
        x = (curve.offset + np.array([seconds for seconds, _ in curve.steps])) / per_unit
        y = [loss for _, loss in curve.steps]
        positive &= min(y) > 0
        tint = style.color(curve.stage, order)
        window = min(101, max(5, len(y) // 8))
        axes.plot(x, y, ".", color=tint, ms=3.0, mew=0, alpha=0.3, zorder=1)
        axes.plot(x, moving_average(y, window), color=tint, lw=1.5 if len(curves) <= 2 else 0.9, zorder=2)
    if positive:
        axes.set_yscale("log")
        style.plain_log_ticks(axes.yaxis)
