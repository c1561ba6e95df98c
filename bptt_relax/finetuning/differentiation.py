"""From the name of an adjoint in the settings to how the relaxations of a training are run and differentiated."""

from typing import NamedTuple

from bptt_relax.adjoints import Adjoint, FrozenGeometry, Guided, Implicit, Truncated
from bptt_relax.analysis import FASTEST_FIRST
from bptt_relax.finetuning.settings import RelaxationSettings

SOLVED_TO = 1e-3
"""Relative residual of the linear system behind an implicit gradient: far below the scatter from update to update."""


class Differentiation(NamedTuple):
    """How relaxations are run and differentiated in training.

    Attributes:
        adjoints: how to differentiate; where memory runs out with one, the next takes over.
        num_steps: largest number of displacements.
        force_tolerance: where a relaxation stops, eV/angstrom; 0 for never.
    """

    adjoints: tuple[Adjoint, ...]
    num_steps: int
    force_tolerance: float


def choose(name: str, settings: RelaxationSettings) -> Differentiation:
    """What an adjoint needs of the relaxations it differentiates.

    One that differentiates steps gets ``train_steps`` of them. One that looks at where the relaxation ends means
    nothing before it has: it gets as many steps as it takes, at most ``test_steps``. Where that is not enough, an
    implicit gradient is zero, and the forces trained along with it are all that is learned from.

    Args:
        name: as in `settings.BpttSettings`.
        settings: of the relaxation.
    """
    kind, _, steps = name.partition("_")
    implicit = Implicit(settings.force_tolerance, on_unusable="zero", tolerance=SOLVED_TO)
    unrolled = Differentiation(FASTEST_FIRST, settings.train_steps, 0.0)
    converged = Differentiation((), settings.test_steps, settings.force_tolerance)
    match kind:
        case "first":
            return unrolled._replace(adjoints=(Truncated(first=int(steps)),))
        case "last":
            return unrolled._replace(adjoints=(Truncated(last=int(steps)),))
        case "implicit":
            return converged._replace(adjoints=(implicit,))
        case "guided":
            return converged._replace(adjoints=(Guided(int(steps), implicit=implicit),))
        case "frozen":
            return converged._replace(adjoints=(FrozenGeometry(settings.step_size),))
    return unrolled
