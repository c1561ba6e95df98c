"""The figure of the crystals experiment, from saved numbers only."""

from pathlib import Path
from typing import Any

from bptt_relax.report import figures


def draw(folder: Path, results: dict[str, Any]) -> None:
    """Draw where relaxed cells end into ``folder/figures``, a constant pressure beside the stages.

    Args:
        folder: of the run.
        results: results.json, with ``constant_pressure``.
    """
    (entry,) = results["models"].values()
    offset = results["constant_pressure"]
    label = f"pretrained at {offset['pressure_GPa']:+.1f} GPa".replace("-", "−")
    figure = figures.cells(entry.get("free_cell") or entry, {label: offset["test"]})
    figures.save(figure, folder / "figures", "cells")
