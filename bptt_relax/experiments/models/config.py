"""Settings of the comparison of pretrained models, what some of them need of their own, and its presets."""

from pathlib import Path
from typing import NamedTuple

from pydantic import Field, field_validator

from bptt_relax.experiments._settings import ONE_AT_A_TIME, PartSettings
from bptt_relax.finetuning.settings import (
    BpttSettings,
    FineTuningSettings,
    ForceMatchingSettings,
    ParameterSettings,
    RelaxationSettings,
    ReplaySettings,
)
from bptt_relax.finetuning.variants import Changes, changed
from bptt_relax.runs.settings import RunSettings

MODELS = ("chgnet-0.3.0", "chgnet-0.2.0", "chgnet-r2scan", "nequip-silicon", "adapt-silicon", "nequix-mp-1")


class OwnSettings(NamedTuple):
    """What one model needs of its own.

    Attributes:
        reason: why.
        changes: settings of fine-tuning by section.
        train: use only the first so many training relaxations.
        validation: likewise of those that choose the best model.
    """

    reason: str
    changes: Changes
    train: int | None = None
    validation: int | None = None


def _epochs(force_matching: int, bptt: int) -> Changes:
    return {"force_matching": {"epochs": force_matching}, "bptt": {"epochs": bptt}}


_SILICON_ALONE = "pretrained on silicon alone: it meets the other elements here, and its updates are cheap"

# Fixed before any model but chgnet-0.3.0 was tuned, except for the step size of nequip-silicon: 0.03 is a third beyond
# what is stable for it, as the program says at its start. What is tested on is the same for all: averages compare like
# with like.
OWN = {
    "nequix-mp-1": OwnSettings(
        "a force costs nine times that of CHGNet",
        {"relaxation": {"train_steps": 16}, **_epochs(2, 2)},
        train=10,
        validation=3,
    ),
    "adapt-silicon": OwnSettings(_SILICON_ALONE, _epochs(10, 8)),
    "nequip-silicon": OwnSettings(
        f"{_SILICON_ALONE}; so stiff that the common step size is beyond its limit",
        {"relaxation": {"step_size": 0.02}, **_epochs(10, 8)},
    ),
}


class ModelsConfig(RunSettings):
    """Settings of the comparison of pretrained models."""

    preset: str = "full"
    """Where these settings started from."""
    seed: int = Field(default=0, ge=0)
    """Random seed: order of training, starting points."""
    num_seeds: int = Field(default=1, ge=1)
    """How often to repeat the training, with seed, seed + 1, ..."""
    relaxation: RelaxationSettings = RelaxationSettings()
    force_matching: ForceMatchingSettings = ForceMatchingSettings()
    bptt: BpttSettings = ONE_AT_A_TIME
    parameters: ParameterSettings = ParameterSettings()
    replay: ReplaySettings = ReplaySettings()
    forgetting: bool = False
    """Compare each tuned model with the pretrained one on crystals of other chemistry, too."""
    data: PartSettings = PartSettings(train=28, validation=5, test=12)
    models: tuple[str, ...] = MODELS
    """What to start from, in this order: names of pretrained potentials, or files with weights. What can't be had or
    doesn't cover the data is skipped."""
    own_settings: bool = True
    """Give slow and coarse models what they need of their own: fewer relaxations, more epochs."""

    @field_validator("models")
    @classmethod
    def _different(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        # Each is run in a folder of this name.
        if not names or len({Path(name).name for name in names}) < len(names):
            raise ValueError("give at least one model, and none of a name twice")
        return names

    def own(self, model: str) -> OwnSettings:
        """What this model needs of its own."""
        nothing = OwnSettings("", {})
        return OWN.get(model, nothing) if self.own_settings else nothing

    def for_model(self, model: str) -> FineTuningSettings:
        """The settings of fine-tuning one model."""
        recipe = changed(self, self.own(model).changes).model_copy(update={"model": model})
        return FineTuningSettings(
            **dict(recipe), num_seeds=self.num_seeds, forgetting=self.forgetting, resume=self.resume
        )

    def part_for(self, model: str) -> PartSettings:
        """Which relaxations one model gets: never others to be tested on."""
        own = self.own(model)
        return self.data.model_copy(
            update={
                "train": min(self.data.train, own.train or self.data.train),
                "validation": min(self.data.validation, own.validation or self.data.validation),
            }
        )


PRESETS = {
    "smoke": ModelsConfig(
        preset="smoke",
        data=PartSettings(train=2, validation=1, test=2),
        relaxation=RelaxationSettings(train_steps=4, test_steps=12),
        force_matching=ForceMatchingSettings(epochs=1, batch_size=8),
        bptt=BpttSettings(epochs=1),
        models=("chgnet-0.3.0", "adapt-silicon"),
        own_settings=False,
    ),
    "full": ModelsConfig(),
}
