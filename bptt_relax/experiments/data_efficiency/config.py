"""Settings of the data-efficiency experiment, its arms and its presets."""

from itertools import pairwise

from pydantic import Field, field_validator, model_validator

from bptt_relax.experiments._settings import ONE_AT_A_TIME, PartOfSiliconSettings, PartSettings
from bptt_relax.finetuning.settings import (
    BpttSettings,
    ForceMatchingSettings,
    RecipeSettings,
    RelaxationSettings,
)
from bptt_relax.finetuning.variants import Variant, changed

# Structures alone means that nothing but the two ends of a relaxation is seen, as a start either.
_STRUCTURES_ALONE = {
    "start_from": "pretrained",
    "force_weight": 0.0,
    "from_initial": 0.5,
    "from_ionic_step": 0.0,
}

ARMS = {
    "recipe": Variant("force matching, then BPTT", "bptt", {}),
    "structures": Variant("BPTT on structures alone", "bptt", {"bptt": _STRUCTURES_ALONE}),
    "all_steps": Variant("force matching, all ionic steps", "force_matching", {}),
    "end_frames": Variant("force matching, first and last step", "force_matching", {}),
}
"""Ways to learn from the same relaxations. The first sets the time that each of the others has."""


class DataEfficiencyConfig(PartOfSiliconSettings):
    """Settings of the data-efficiency experiment."""

    data: PartSettings = PartSettings(train=28)
    force_matching: ForceMatchingSettings = ForceMatchingSettings(epochs=1)
    # A short average: 24 updates are too few for one over twenty.
    bptt: BpttSettings = ONE_AT_A_TIME.model_copy(update={"epochs": 3, "averaging": 0.9})
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    """How many relaxations to learn from, each set being part of the next larger one."""
    draws: int = Field(default=2, ge=1)
    """How many such chains of sets to draw from the training relaxations; each trains with a seed of its own."""
    least_unrolls: int = Field(default=8, ge=2)
    """Fewer relaxations than this are repeated within an epoch, until it has at least so many unrolls."""

    @field_validator("sizes")
    @classmethod
    def _growing(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
            raise ValueError(f"sizes must be positive and grow, not {sizes}")
        return sizes

    @model_validator(mode="after")
    def _consistent(self):
        if self.sizes[-1] > self.data.train:
            raise ValueError(f"sizes go up to {self.sizes[-1]}, but data.train is {self.data.train}")
        if not (self.force_matching.epochs and self.bptt.epochs):
            raise ValueError("both stages need an epoch at least: they set the time of every arm")
        return self

    def for_arm(self, arm: str, draw: int, **epochs: int) -> RecipeSettings:
        """The recipe of one arm.

        Args:
            arm: of ``ARMS``.
            draw: sets the seed.
            **epochs: by stage, where the arm does not have those of the configuration.
        """
        changes = {section: dict(values) for section, values in ARMS[arm].changes.items()}
        for stage, number in epochs.items():
            changes.setdefault(stage, {})["epochs"] = number
        return changed(self, changes).model_copy(update={"seed": self.seed + draw})


PRESETS = {
    "smoke": DataEfficiencyConfig(
        preset="smoke",
        data=PartSettings(train=2, validation=1, test=1),
        relaxation=RelaxationSettings(train_steps=4, test_steps=12),
        force_matching=ForceMatchingSettings(epochs=1, batch_size=8),
        bptt=BpttSettings(epochs=1, averaging=0.9),
        sizes=(1, 2),
        draws=1,
        least_unrolls=2,
    ),
    "full": DataEfficiencyConfig(),
}
