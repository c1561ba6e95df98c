"""From the name of an adjoint in the settings to how the relaxations of a training are run and differentiated."""

from typing import NamedTuple

from bptt_relax.adjoints import Adjoint, named
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
    adjoint = named(
        name,
        force_tolerance=settings.force_tolerance,
        on_unusable="zero",
        tolerance=SOLVED_TO,
        step_size=settings.step_size,
    )
    adjoints = (adjoint, *adjoint.leaner)
    if adjoint.needs_convergence:
        return Differentiation(adjoints, settings.test_steps, settings.force_tolerance)
    return Differentiation(adjoints, settings.train_steps, 0.0)
