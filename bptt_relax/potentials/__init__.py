"""Potentials: the contract, how to build one, and the ones that come with the package."""

from bptt_relax.potentials._contract import ApplyFn, InitFn, Potential, Prediction
from bptt_relax.potentials.classical import stillinger_weber
from bptt_relax.potentials.conservative import EnergyFn, conservative

__all__ = ["ApplyFn", "EnergyFn", "InitFn", "Potential", "Prediction", "conservative", "stillinger_weber"]
