"""NequIP: jax-md's own network, on our edges."""

from bptt_relax.models.nequip.network import Config, build, take_rows

__all__ = ["Config", "build", "take_rows"]
