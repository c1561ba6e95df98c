"""Settings of the preference experiment: what trains."""

from pydantic import Field, field_validator, model_validator

from bptt_relax.experiments._settings import ONE_AT_A_TIME, PartOfSiliconSettings, PartSettings
from bptt_relax.finetuning.settings import BpttSettings, ForceMatchingSettings, RelaxationSettings
from bptt_relax.finetuning.variants import Variant, check_names

RULE_RATE = 0.05
"""Lets the rule move, in 16 updates by up to a factor of two; the rate of the potential moves it by a hundredth."""
SCALES = {"scales": ("element", "step")}
DYNAMICS = {"learn_potential": False, "learn_rule": True, "rule_learning_rate": RULE_RATE}
BOTH = {"learn_rule": True, "rule_learning_rate": RULE_RATE}

# Fixed before any was tried.
ARMS = {
    "potential": Variant("potential", "potential", {}),
    "dynamics": Variant("step size, annealing, momentum", "dynamics", {"bptt": DYNAMICS}),
    "dynamics_scales": Variant("and scales", "dynamics", {"bptt": DYNAMICS, "relaxation": SCALES}),
    "both_one_rate": Variant("both, one rate", "both", {"bptt": {"learn_rule": True}}),
    "both": Variant("both", "both", {"bptt": BOTH}),
    "both_scales": Variant("both, and scales", "both", {"bptt": BOTH, "relaxation": SCALES}),
}


class PreferenceConfig(PartOfSiliconSettings):
    """Settings of the preference experiment."""

    data: PartSettings = PartSettings(train=8, validation=3, test=5)
    force_matching: ForceMatchingSettings = ForceMatchingSettings(epochs=2)
    bptt: BpttSettings = ONE_AT_A_TIME.model_copy(update={"epochs": 2})
    num_seeds: int = Field(default=2, ge=1)
    """How often each arm is trained, with seed, seed + 1, ..."""
    arms: tuple[str, ...] = tuple(ARMS)
    """What trains, in this order."""
    looked_at: tuple[int, ...] = (2, 4, 8, 16, 24, 48, 96)
    """Numbers of steps after which the sensitivity of Delta Q to each part is found."""
    structures: int = Field(default=3, ge=1)
    """Training structures on which it is found, the first ones."""

    @field_validator("arms")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return check_names(names, ARMS, "arm")

    @model_validator(mode="after")
    def _possible(self):
        if not self.looked_at or min(self.looked_at) < 1:
            raise ValueError("looked_at must be positive numbers of steps")
        return self


PRESETS = {
    "smoke": PreferenceConfig(
        preset="smoke",
        data=PartSettings(train=2, validation=1, test=1),
        relaxation=RelaxationSettings(train_steps=4, test_steps=12),
        force_matching=ForceMatchingSettings(epochs=1, batch_size=8),
        bptt=BpttSettings(epochs=1),
        num_seeds=1,
        arms=("potential", "dynamics"),
        looked_at=(2, 4),
        structures=1,
    ),
    "full": PreferenceConfig(),
}
