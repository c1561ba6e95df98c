"""SevenNet: a NequIP with linear self-connections, that knows rotations but not reflections."""

from bptt_relax.models.sevennet.network import Config, build

__all__ = ["Config", "build"]
