"""What a run has to say: progress while it lasts, then metrics, tables and figures, from saved numbers only.

Figures live in `bptt_relax.report.figures`, so that printing a table costs no import of matplotlib.
"""

from bptt_relax.report.environment import environment, peak_rss_mb
from bptt_relax.report.metrics import MetricsFile, read_metrics
from bptt_relax.report.names import readable
from bptt_relax.report.progress import Reporter
from bptt_relax.report.tables import print_results, results_markdown, results_table

__all__ = [
    "MetricsFile",
    "Reporter",
    "environment",
    "peak_rss_mb",
    "print_results",
    "read_metrics",
    "readable",
    "results_markdown",
    "results_table",
]
