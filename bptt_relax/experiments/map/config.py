"""Settings of the map experiment and its presets."""

import hashlib
from pathlib import Path

from pydantic import Field, model_validator

from bptt_relax.experiments._settings import ONE_AT_A_TIME, PartOfSiliconSettings, PartSettings
from bptt_relax.finetuning.settings import BpttSettings, ForceMatchingSettings, RelaxationSettings
from bptt_relax.outcomes import InputError
from bptt_relax.runs.settings import Settings

TUNED = ("force_matching", "bptt")
"""Stages whose models are measured beside the pretrained one."""


class MapSettings(Settings):
    """How the map is measured."""

    tolerance: float = Field(default=0.003, gt=0)
    """Largest force at what counts as a fixed point, eV/angstrom."""
    steps: int = Field(default=300, ge=1)
    """Largest number of steps to a fixed point."""
    rattles: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    """Standard deviations of the rattles that a basin is measured with, angstrom."""
    draws: int = Field(default=2, ge=1)
    """Rattled structures of each; the same directions for every amplitude and model."""


class MapConfig(PartOfSiliconSettings):
    """Settings of the map experiment."""

    run: Path | None = None
    """A run of the silicon experiment whose tuned models (first seed) to measure; trains its own when not given."""
    data: PartSettings = PartSettings(train=25, validation=5, test=6)
    map: MapSettings = MapSettings()
    bptt: BpttSettings = ONE_AT_A_TIME

    @model_validator(mode="after")
    def _one_rule(self):
        if self.bptt.learn_rule:
            raise ValueError("this experiment compares models under one rule: leave bptt.learn_rule out")
        return self

    def files(self) -> dict[str, Path]:
        """Stage -> file of its tuned model, in the run whose models are measured.

        Raises:
            InputError: it is not a run that got that far.
        """
        assert self.run is not None
        folders = sorted(self.run.glob("seed*"), key=lambda folder: (len(folder.name), folder.name))
        found = {stage: folders[0] / f"{stage}.safetensors" for stage in TUNED} if folders else {}
        missing = [str(path) for path in found.values() if not path.is_file()]
        if not found or missing:
            raise InputError(
                f"--run {self.run} has no tuned models ({', '.join(missing) or 'no seed folder'}): give the folder of "
                "a finished run of bptt_relax.experiments.silicon, or leave --run out to train here"
            )
        return found

    def resolved(self) -> dict:
        """Everything that decides the outcome, as JSON: of a run its models, wherever it lies."""
        found = super().resolved()
        found["run"] = self.run and {
            stage: hashlib.sha256(path.read_bytes()).hexdigest() for stage, path in self.files().items()
        }
        return found


PRESETS = {
    "smoke": MapConfig(
        preset="smoke",
        data=PartSettings(train=2, validation=1, test=1),
        map=MapSettings(tolerance=0.02, steps=60, rattles=(0.05, 0.3), draws=1),
        relaxation=RelaxationSettings(train_steps=4, test_steps=12),
        force_matching=ForceMatchingSettings(epochs=1, batch_size=8),
        bptt=BpttSettings(epochs=1),
    ),
    "full": MapConfig(),
}
