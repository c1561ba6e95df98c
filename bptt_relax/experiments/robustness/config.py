"""Settings of the robustness experiment: what is varied, one setting at a time."""

from pydantic import Field, field_validator

from bptt_relax.experiments._settings import ONE_AT_A_TIME, PartOfSiliconSettings, PartSettings
from bptt_relax.finetuning.settings import BpttSettings, ForceMatchingSettings, RelaxationSettings
from bptt_relax.finetuning.variants import Variant, check_names


def _relaxation(label: str, group: str, **changes) -> Variant:
    return Variant(label, group, {"relaxation": changes})


def _bptt(label: str, group: str, **changes) -> Variant:
    return Variant(label, group, {"bptt": changes})


# Fixed before any was tried. The largest curvature that the pretrained model sees in the training structures is
# 39.5 eV/angstrom^2: the common relaxation (momentum 0.7) is stable up to a step of 0.086, descent up to 0.051.
VARIANTS = {
    "step_0.01": _relaxation("0.01", "step size", step_size=0.01),
    "step_0.02": _relaxation("0.02", "step size", step_size=0.02),
    "step_0.06": _relaxation("0.06", "step size", step_size=0.06),
    "step_0.08": _relaxation("0.08 (93% of the limit)", "step size", step_size=0.08),
    "step_0.095": _relaxation("0.095 (beyond by 10%)", "step size", step_size=0.095),
    "step_0.13": _relaxation("0.13 (beyond by 51%)", "step size", step_size=0.13),
    "annealing_0.99": _relaxation("0.99", "annealing", annealing=0.99),
    "annealing_0.95": _relaxation("0.95", "annealing", annealing=0.95),
    "momentum_0.3": _relaxation("0.3", "momentum", decay=0.3),
    "momentum_0.9": _relaxation("0.9", "momentum", decay=0.9),
    "convex": _relaxation("0.7, convex mix", "momentum", mix="convex"),
    "descent": _relaxation("descent", "rule", rule="descent"),
    "fire": _relaxation("FIRE", "rule", rule="fire"),
    "cap_0.05": _relaxation("0.05", "cap", cap=0.05),
    "cap_0.5": _relaxation("0.5", "cap", cap=0.5),
    "steps_6": _relaxation("6", "unrolled steps", train_steps=6),
    "steps_12": _relaxation("12", "unrolled steps", train_steps=12),
    "steps_48": _relaxation("48", "unrolled steps", train_steps=48),
    "threshold_0.05": _relaxation("0.05", "threshold of the test", force_tolerance=0.05),
    "threshold_0.003": _relaxation("0.003", "threshold of the test", force_tolerance=0.003),
    "plain": _bptt("ΔQ, not softened", "loss", softening=0.0),
    "quadratic": _bptt("ΔQ, quadratic below 3", "loss", softening=3.0),
    "rmsd": _bptt("masses alike", "loss", distance="rmsd"),
    "clip_0.5": _bptt("0.5", "clipping", clip=0.5),
    "clip_1000": _bptt("1000", "clipping", clip=1000.0),
    "rate_1e-4": _bptt("1e-4", "learning rate of BPTT", learning_rate=1e-4),
    "rate_2e-4": _bptt("2e-4", "learning rate of BPTT", learning_rate=2e-4),
    "rate_1e-3": _bptt("1e-3", "learning rate of BPTT", learning_rate=1e-3),
    "from_initial": _bptt("initial only", "starting points", from_initial=1.0, from_ionic_step=0.0),
    "from_ionic_steps": _bptt("ionic steps only", "starting points", from_initial=0.0, from_ionic_step=1.0),
    "from_rattled": _bptt(
        "rattled references only", "starting points", from_initial=0.0, from_ionic_step=0.0
    ),
    "no_forces": _bptt("no forces along", "stages", force_weight=0.0),
    "no_matching": _bptt("BPTT from the start", "stages", start_from="pretrained"),
}


class RobustnessConfig(PartOfSiliconSettings):
    """Settings of the robustness experiment."""

    data: PartSettings = PartSettings(train=8, validation=3, test=5)
    force_matching: ForceMatchingSettings = ForceMatchingSettings(epochs=2)
    bptt: BpttSettings = ONE_AT_A_TIME.model_copy(update={"epochs": 2})
    num_seeds: int = Field(default=3, ge=1)
    """How often the common settings are trained, with seed, seed + 1, ...: the yardstick of every difference."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """What to change, in this order."""

    @field_validator("variants")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return check_names(names, VARIANTS)


PRESETS = {
    "smoke": RobustnessConfig(
        preset="smoke",
        data=PartSettings(train=2, validation=1, test=1),
        relaxation=RelaxationSettings(train_steps=4, test_steps=12),
        force_matching=ForceMatchingSettings(epochs=1, batch_size=8),
        bptt=BpttSettings(epochs=1),
        num_seeds=1,
        variants=("step_0.06", "descent", "clip_0.5"),
    ),
    "full": RobustnessConfig(),
}
