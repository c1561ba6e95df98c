"""Settings of the crystals experiment and its presets."""

from typing import Literal

from pydantic import Field

from bptt_relax.experiments._settings import ONE_AT_A_TIME
from bptt_relax.experiments.silicon.config import DataSettings as LimitSettings
from bptt_relax.finetuning.settings import (
    BpttSettings,
    FineTuningSettings,
    ForceMatchingSettings,
    RelaxationSettings,
)


class DataSettings(LimitSettings):
    """Which relaxations are used."""

    cells: Literal["both", "free", "given"] = "both"
    """Relaxations of positions and cell, of positions in a given cell, or both."""
    fold: int = Field(default=0, ge=0, le=2)
    """Which third of the crystals is tested on."""


class CrystalsConfig(FineTuningSettings):
    """Settings of the crystals experiment."""

    preset: str = "quick"
    """Where these settings started from."""
    data: DataSettings = DataSettings()
    relaxation: RelaxationSettings = RelaxationSettings(train_steps=40, test_steps=300, skin=1.0)
    bptt: BpttSettings = ONE_AT_A_TIME


PRESETS = {
    "smoke": CrystalsConfig(
        preset="smoke",
        data=DataSettings(train_limit=3, evaluate_limit=2),
        relaxation=RelaxationSettings(train_steps=4, test_steps=12, skin=1.0),
        force_matching=ForceMatchingSettings(epochs=1, batch_size=8),
        bptt=BpttSettings(epochs=1),
    ),
    "quick": CrystalsConfig(preset="quick"),
    "full": CrystalsConfig(preset="full", num_seeds=3),
}
