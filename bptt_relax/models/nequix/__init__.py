"""Nequix: a small NequIP with a normalization in each layer."""

from bptt_relax.models.nequix.network import Config, build

__all__ = ["Config", "build"]
