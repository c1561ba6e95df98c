"""The relaxation that is trained through and tested with, from its settings."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from bptt_relax import relax
from bptt_relax.finetuning.settings import RelaxationSettings
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation, UpdateRule
from bptt_relax.units import EV_PER_A3_IN_GPA

CELL_FACTOR = "spacing"
"""An unroll is short: with ASE's own factor a cell of a hundred atoms would hardly have moved at its end."""


class RuleForm(NamedTuple):
    """What of an update rule is compiled. Step size, momentum and annealing are data, in `Theta.rule`.

    Attributes:
        rule: its name.
        mix: how momentum is mixed in.
        cap: largest displacement of an atom, angstrom.
        scales: learnable factors on the forces.
        num_scales: how many there are of those for each step; 0 without.
    """

    rule: str
    mix: Literal["heavy_ball", "convex"]
    cap: float
    scales: tuple[str, ...]
    num_scales: int


class EvaluationForm(NamedTuple):
    """What of the relaxation that is tested with is compiled.

    Attributes:
        rule: update rule.
        num_steps: largest number of steps.
        force_tolerance: eV/angstrom.
        stress_tolerance: GPa.
        pressure: external, eV/angstrom^3.
    """

    rule: RuleForm
    num_steps: int
    force_tolerance: float
    stress_tolerance: float
    pressure: float = 0.0


def rule_form(settings: RelaxationSettings) -> RuleForm:
    """The form of the rule that the settings name."""
    num_scales = settings.train_steps if "step" in settings.scales else 0
    return RuleForm(settings.rule, settings.mix, settings.cap, settings.scales, num_scales)


def evaluation_form(settings: RelaxationSettings) -> EvaluationForm:
    """The form of the relaxation that the settings test with."""
    return EvaluationForm(
        rule_form(settings), settings.test_steps, settings.force_tolerance, settings.stress_tolerance
    )


def make_rule(settings: RelaxationSettings) -> UpdateRule:
    """The update rule with the numbers of the settings."""
    return build_rule(rule_form(settings), settings)


def build_rule(form: RuleForm, numbers: RelaxationSettings | None = None) -> UpdateRule:
    """The update rule of this form: in the paper's frame momentum on an annealed step, capped.

    Args:
        form: of the rule.
        numbers: that its hyperparameters start from; any, where those come with theta.
    """
    numbers = numbers or RelaxationSettings()
    scales = [SCALES[name](form) for name in form.scales]
    return relax.chain(*scales, RULES[form.rule](form, numbers), relax.cap_displacement(form.cap))


SCALES: dict[str, Callable[[RuleForm], UpdateRule]] = {
    "element": lambda form: relax.scale_by_element(),
    "step": lambda form: relax.scale_by_step(form.num_scales),
}
RULES: dict[str, Callable[[RuleForm, RelaxationSettings], UpdateRule]] = {
    "momentum": lambda form, s: relax.momentum(s.step_size, s.decay, annealing=s.annealing, mix=form.mix),
    "descent": lambda form, s: relax.descent(s.step_size, annealing=s.annealing),
    "fire": lambda form, s: relax.fire(largest_step=None),
}


class EvaluatedRelaxations(NamedTuple):
    """The relaxations that are tested with.

    Attributes:
        given_cell: of positions alone.
        free_cell: of positions and cell; None where the potential predicts no stress.
    """

    given_cell: Relaxation
    free_cell: Relaxation | None


def evaluated_relaxations(potential: Potential, form: EvaluationForm) -> EvaluatedRelaxations:
    """The relaxations of this form."""
    rule = build_rule(form.rule)
    free = None
    if "stress" in potential.predicts:
        free = relax.variable_cell_relaxation(
            potential,
            rule,
            cell_factor=CELL_FACTOR,
            scalar_pressure=form.pressure,
            force_tolerance=form.force_tolerance,
            stress_tolerance=form.stress_tolerance / EV_PER_A3_IN_GPA,
        )
    return EvaluatedRelaxations(relax.relaxation(potential, rule, force_tolerance=form.force_tolerance), free)
