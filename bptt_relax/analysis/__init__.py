"""Analysis: can gradients be trusted, is a step stable, what does an unroll cost in memory."""

from bptt_relax.analysis._check import Check
from bptt_relax.analysis.agreement import Agreement, compare_labels
from bptt_relax.analysis.certificate import Certificate, format_certificate, selftest
from bptt_relax.analysis.consistency import check_potential
from bptt_relax.analysis.gradcheck import GradientReport, gradcheck
from bptt_relax.analysis.linearized import LinearStep, linearized_step
from bptt_relax.analysis.memory import (
    FASTEST_FIRST,
    MemoryModel,
    Option,
    Plan,
    adjoint_name,
    fit_memory,
    is_out_of_memory,
    plan,
    plan_measured,
    program_bytes,
    temporary_bytes,
    with_fallback,
)
from bptt_relax.analysis.spectrum import Extremes, StepSpectrum, hessian_extremes, step_spectrum
from bptt_relax.analysis.stability import Stability, stability

__all__ = [
    "FASTEST_FIRST",
    "Agreement",
    "Certificate",
    "Check",
    "Extremes",
    "GradientReport",
    "LinearStep",
    "MemoryModel",
    "Option",
    "Plan",
    "Stability",
    "StepSpectrum",
    "adjoint_name",
    "check_potential",
    "compare_labels",
    "fit_memory",
    "format_certificate",
    "gradcheck",
    "hessian_extremes",
    "is_out_of_memory",
    "linearized_step",
    "plan",
    "plan_measured",
    "program_bytes",
    "selftest",
    "stability",
    "step_spectrum",
    "temporary_bytes",
    "with_fallback",
]
