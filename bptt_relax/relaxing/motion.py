"""From settings to a relaxation."""

from bptt_relax import relax
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation, Strain, UpdateRule
from bptt_relax.relaxing.settings import RelaxSettings
from bptt_relax.units import EV_PER_A3_IN_GPA

CAP = 0.2
"""Largest displacement of an atom in one step of momentum, angstrom."""


def make_rule(settings: RelaxSettings) -> UpdateRule:
    """The update rule that the settings name; FIRE with ASE's own numbers."""
    if settings.rule == "fire":
        return relax.fire(largest_time_step=1.0)
    return relax.chain(relax.momentum(settings.step_size, settings.decay), relax.cap_displacement(CAP))


def make_relaxation(potential: Potential, rule: UpdateRule, settings: RelaxSettings) -> Relaxation:
    """A relaxation of the positions, and of the cell where the settings free it.

    Args:
        potential: what gives forces and stress.
        rule: from `make_rule`.
        settings: tolerances, cell and pressure.
    """
    if settings.cell == "fixed":
        return relax.relaxation(potential, rule, force_tolerance=settings.fmax)
    return relax.variable_cell_relaxation(
        potential,
        rule,
        strain=_strain(settings.cell),
        scalar_pressure=settings.pressure / EV_PER_A3_IN_GPA,
        force_tolerance=settings.fmax,
        stress_tolerance=settings.smax / EV_PER_A3_IN_GPA,
    )


def _strain(cell: str) -> Strain:
    match cell:
        case "free":
            return "full"
        case "hydrostatic":
            return "hydrostatic"
        case "fixed-volume":
            return "fixed_volume"
    return [digit == "1" for digit in cell]
