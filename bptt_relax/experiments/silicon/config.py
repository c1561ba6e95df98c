"""Settings of the silicon experiment and its presets."""

from pydantic import Field

from bptt_relax.finetuning.settings import (
    BpttSettings,
    FineTuningSettings,
    ForceMatchingSettings,
    RelaxationSettings,
)
from bptt_relax.runs.settings import Settings


class DataSettings(Settings):
    """Which relaxations are used."""

    train_limit: int = Field(default=0, ge=0)
    """Use only the first so many training relaxations; 0 for all."""
    evaluate_limit: int = Field(default=0, ge=0)
    """Use only the first so many of each of validation, test and unseen kinds; 0 for all."""


class SiliconConfig(FineTuningSettings):
    """Settings of the silicon experiment."""

    preset: str = "quick"
    """Where these settings started from."""
    data: DataSettings = DataSettings()


PRESETS = {
    "smoke": SiliconConfig(
        preset="smoke",
        data=DataSettings(train_limit=2, evaluate_limit=1),
        relaxation=RelaxationSettings(train_steps=4, test_steps=12),
        force_matching=ForceMatchingSettings(epochs=1, batch_size=8),
        bptt=BpttSettings(epochs=1),
    ),
    "quick": SiliconConfig(preset="quick"),
    # Every update sees every relaxation; no force matching before it.
    "full": SiliconConfig(
        preset="full",
        num_seeds=3,
        bptt=BpttSettings(
            start_from="pretrained", batch_size=32, epochs=160, learning_rate=1e-3, validate_every=8
        ),
    ),
}
