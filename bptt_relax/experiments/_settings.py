"""Settings that experiments share: plain data, nothing heavy to import."""

from pydantic import Field

from bptt_relax.finetuning.settings import BpttSettings, ComparedSettings
from bptt_relax.runs.settings import Settings

ONE_AT_A_TIME = BpttSettings(epochs=4, batch_size=1, learning_rate=5e-4)
"""BPTT of one relaxation per update, whatever the machine: so the published comparisons were made."""


class PartSettings(Settings):
    """Which of the bundled silicon defects are used: a part, so that many variants can be compared."""

    train: int = Field(default=10, ge=1)
    """The first so many training relaxations."""
    validation: int = Field(default=3, ge=1)
    """The first so many of those that choose the best model."""
    test: int = Field(default=6, ge=1)
    """The first so many test structures, and of unseen kinds."""


class PartOfSiliconSettings(ComparedSettings):
    """Settings of an experiment that compares variants on a part of the bundled silicon defects."""

    data: PartSettings = PartSettings()
