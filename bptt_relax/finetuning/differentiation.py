"""From the name of an adjoint in the settings to ways of differentiating, the fastest first."""

from bptt_relax.adjoints import Adjoint, FrozenGeometry, Guided, Implicit, Truncated
from bptt_relax.analysis import FASTEST_FIRST

SOLVED_TO = 1e-3
"""Relative residual of the linear system behind an implicit gradient: far below the scatter from update to update."""


def choose(name: str, step_size: float, force_tolerance: float) -> tuple[Adjoint, ...]:
    """Adjoints that take the gradient of this name; where memory runs out with one, the next takes over.

    Args:
        name: as in `settings.BpttSettings`.
        step_size: angstrom^2/eV, of the step that a frozen geometry takes.
        force_tolerance: at which a relaxation has converged, eV/angstrom.
    """
    kind, _, steps = name.partition("_")

    def implicit() -> Implicit:
        return Implicit(force_tolerance, on_unusable="zero", tolerance=SOLVED_TO)

    match kind:
        case "first":
            return (Truncated(first=int(steps)),)
        case "last":
            return (Truncated(last=int(steps)),)
        case "implicit":
            return (implicit(),)
        case "guided":
            return (Guided(int(steps), implicit=implicit()),)
        case "frozen":
            return (FrozenGeometry(step_size),)
    return FASTEST_FIRST
