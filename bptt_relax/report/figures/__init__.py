"""The figures of a run, from saved numbers only. Drawing happens on no screen and changes no global setting."""

from bptt_relax.report.figures.before_after import before_after, paired
from bptt_relax.report.figures.cells import cells
from bptt_relax.report.figures.displacement import displacement_by_distance
from bptt_relax.report.figures.learning import learning_curves
from bptt_relax.report.figures.relaxation import relaxation_path
from bptt_relax.report.style import save

__all__ = [
    "before_after",
    "cells",
    "displacement_by_distance",
    "learning_curves",
    "paired",
    "relaxation_path",
    "save",
]
