"""Figures of a run, from saved numbers only."""

from pathlib import Path

from bptt_relax.report import figures
from bptt_relax.report.metrics import read_metrics
from bptt_relax.runs import folder as folders


def draw(folder: Path, results: dict, path: dict, displacements: list[dict]) -> None:
    """Draw everything into ``folder/figures``.

    Args:
        folder: of the run.
        results: results.json.
        path: path.json, one followed relaxation.
        displacements: per structure, distances from the defect and from the reference positions, angstrom.
    """
    (model,) = results["models"]
    target = folder / "figures"
    figures.save(figures.before_after(results, model), target, "before_after")
    figures.save(figures.learning_curves(read_metrics(folder / folders.METRICS)), target, "learning_curves")
    figures.save(figures.relaxation_path(path), target, "relaxation_path")
    entry = results["models"][model]
    if entry["pretrained"].get("cell"):
        figures.save(figures.cells(entry.get("free_cell") or entry), target, "cells")
    else:
        # Crystals that relax their cell have no defect to be far from.
        figures.save(figures.displacement_by_distance(displacements), target, "displacement_by_distance")
