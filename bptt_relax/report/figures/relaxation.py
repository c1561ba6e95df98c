"""One relaxation followed step by step, by the model of each stage."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt_relax.report import style
from bptt_relax.report.names import STAGES, readable, stage_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def relaxation_path(path: dict[str, Any]) -> "Figure":
    """Delta Q to the DFT structure and the largest force at every step.

    Args:
        path: ``name`` of the structure; ``stages``: stage -> ``delta_q`` in sqrt(u)*angstrom and ``max_force`` in
            eV/angstrom, one value per step; a dot marks where
            a relaxation ended.
    """
    stages = [stage for stage in STAGES if stage in path["stages"]]
    stages += [stage for stage in path["stages"] if stage not in stages]
    with style.drawing():
        figure = style.new_figure(6.4, 5.0)
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.set_title(f"Relaxation of {readable(path['name'])}")
        for axes, key, label in (
            (upper, "delta_q", style.DELTA_Q),
            (lower, "max_force", "largest force (eV/Å)"),
        ):
            axes.set_ylabel(label)
            axes.grid(axis="y")
            ends = []
            longest = max((len(path["stages"][stage][key]) for stage in stages), default=1)
            for order, stage in enumerate(stages):
                y = np.asarray(path["stages"][stage][key], float)
                if not len(y):
                    continue
                tint = style.color(stage, order)
                axes.plot(np.arange(1, len(y) + 1), y, color=tint)
                # Converged: the structure stays where it is.
                axes.plot([len(y), longest], [y[-1], y[-1]], ":", color=tint, lw=1.0)
                axes.plot(len(y), y[-1], "o", ms=5.0, color=tint, mew=0, clip_on=False, zorder=5)
                ends.append((float(longest), float(y[-1]), stage_label(stage), tint))
            if key == "max_force" and all(np.all(np.asarray(path["stages"][s][key]) > 0) for s in stages):
                axes.set_yscale("log")
                style.plain_log_ticks(axes.yaxis)
            elif key == "delta_q":
                axes.set_ylim(bottom=0.0)
            axes.set_xlim(0.0, longest)
            style.label_ends(axes, ends, gap=0.09)
        lower.set_xlabel("relaxation step")
    return figure
