"""Reference data that comes with the package; README.md beside this file is its card."""

from bptt_relax.datasets import acceptance, crystals, silicon
from bptt_relax.datasets._bundle import NAMES, Dataset, Rejected, load

__all__ = ["NAMES", "Dataset", "Rejected", "acceptance", "crystals", "load", "silicon"]
