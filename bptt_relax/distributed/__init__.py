"""Several processes, on one host or many, that work on one run."""

from bptt_relax.distributed.communication import Processes, processes
from bptt_relax.distributed.joining import joined

__all__ = ["Processes", "joined", "processes"]
