"""Settings of the adjoints experiment, its variants and its presets."""

from pydantic import Field, field_validator, model_validator

from bptt_relax.experiments._settings import ONE_AT_A_TIME, PartOfSiliconSettings, PartSettings
from bptt_relax.finetuning.settings import BpttSettings, ForceMatchingSettings, RelaxationSettings
from bptt_relax.finetuning.variants import Variant, check_names
from bptt_relax.runs.settings import Settings


def _adjoint(name: str) -> dict[str, dict]:
    return {"bptt": {"adjoint": name}}


# The windows were fixed before any was tried: a third of the unroll.
VARIANTS = {
    "full": Variant("full", "unrolled", _adjoint("full")),
    "guided_8": Variant("guided, first 8", "both", _adjoint("guided_8")),
    "implicit": Variant("implicit", "end", _adjoint("implicit")),
    "first_8": Variant("first 8", "unrolled", _adjoint("first_8")),
    "last_8": Variant("last 8", "unrolled", _adjoint("last_8")),
    "frozen": Variant("frozen geometry", "end", _adjoint("frozen")),
    "forces": Variant("forces alone", "forces", {}),
}
"""Ways to differentiate a relaxation, and force matching, which differentiates none."""


class StartSettings(Settings):
    """The starts with competing minima."""

    count: int = Field(default=100, ge=1)
    """At most so many."""
    screen: tuple[float, ...] = (0.0, 0.5)
    """How far along the reference's way the starts lie by which the pretrained model says whether a defect competes."""
    fractions: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    """How far the starts lie that count."""

    @model_validator(mode="after")
    def _screened(self):
        if not set(self.screen) <= set(self.fractions):
            raise ValueError("screen must be a part of fractions: what was relaxed once counts")
        return self


class AdjointsConfig(PartOfSiliconSettings):
    """Settings of the adjoints experiment."""

    data: PartSettings = PartSettings(train=25, validation=5, test=12)
    starts: StartSettings = StartSettings()
    bptt: BpttSettings = ONE_AT_A_TIME.model_copy(update={"start_from": "pretrained"})
    seconds: float = Field(default=240.0, gt=0)
    """Training time of each variant, counted at the measured cost of its update, to whole epochs."""
    timed: int = Field(default=5, ge=1)
    """Updates that the time of one is measured on, the variants taking turns."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which to compare, in this order."""

    @field_validator("variants")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return check_names(names, VARIANTS)

    @model_validator(mode="after")
    def _fixed(self):
        if self.bptt.start_from != "pretrained" or self.bptt.learn_rule:
            raise ValueError("every variant starts from the pretrained model, and leaves the rule as it is")
        return self


PRESETS = {
    "smoke": AdjointsConfig(
        preset="smoke",
        data=PartSettings(train=2, validation=1, test=4),
        starts=StartSettings(count=4, screen=(0.0,), fractions=(0.0,)),
        relaxation=RelaxationSettings(train_steps=4, test_steps=40),
        force_matching=ForceMatchingSettings(batch_size=8),
        bptt=BpttSettings(epochs=1, start_from="pretrained"),
        seconds=2.0,
        timed=1,
        variants=("full", "guided_8", "forces"),
    ),
    "full": AdjointsConfig(),
}
