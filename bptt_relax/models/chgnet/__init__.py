"""CHGNet: a graph network with angles and magnetic moments."""

from bptt_relax.models.chgnet.network import Config, build

__all__ = ["Config", "build"]
