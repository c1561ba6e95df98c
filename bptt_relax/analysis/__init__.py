"""Analysis: can gradients be trusted, is a step stable, what does an unroll cost in memory."""

from bptt_relax.analysis._check import Check
from bptt_relax.analysis.agreement import Agreement, compare_labels
from bptt_relax.analysis.certificate import Certificate, format_certificate, selftest
from bptt_relax.analysis.consistency import check_potential
from bptt_relax.analysis.gradcheck import GradientReport, gradcheck
from bptt_relax.analysis.linearized import LinearStep, linearized_step
from bptt_relax.analysis.memory import (
    is_out_of_memory,
    program_bytes,
    temporary_bytes,
)
from bptt_relax.analysis.plausibility import require_consistent
from bptt_relax.analysis.spectrum import Extremes, StepSpectrum, hessian_extremes, step_spectrum
from bptt_relax.analysis.stability import Stability, stability

__all__ = [
    "Agreement",
    "Certificate",
    "Check",
    "Extremes",
    "GradientReport",
    "LinearStep",
    "Stability",
    "StepSpectrum",
    "check_potential",
    "compare_labels",
    "format_certificate",
    "gradcheck",
    "hessian_extremes",
    "is_out_of_memory",
    "linearized_step",
    "program_bytes",
    "require_consistent",
    "selftest",
    "stability",
    "step_spectrum",
    "temporary_bytes",
]
