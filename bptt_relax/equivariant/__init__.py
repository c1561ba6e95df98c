"""What networks whose features rotate with the structure are built from: products with harmonics, and layers."""

from bptt_relax.equivariant.convolution import convolution
from bptt_relax.equivariant.layers import SILU_NORM, Linear, RMSNorm, gate, silu
from bptt_relax.equivariant.smallest import one_edge
from bptt_relax.equivariant.tensor_products import Features, couple, coupling, paths, spherical_harmonics

__all__ = [
    "SILU_NORM",
    "Features",
    "Linear",
    "RMSNorm",
    "convolution",
    "couple",
    "coupling",
    "gate",
    "one_edge",
    "paths",
    "silu",
    "spherical_harmonics",
]
