"""ADAPT: a transformer over atoms that predicts forces directly."""

from bptt_relax.models.adapt.network import SPREAD, Config, build, noisy_forces, property_center

__all__ = ["SPREAD", "Config", "build", "noisy_forces", "property_center"]
