"""Settings of the forgetting experiment, its remedies and its presets."""

from pydantic import field_validator

from bptt_relax.experiments._settings import ONE_AT_A_TIME, PartOfSiliconSettings, PartSettings
from bptt_relax.finetuning.settings import BpttSettings, ForceMatchingSettings, RelaxationSettings
from bptt_relax.finetuning.variants import Variant, check_names


def _rate(rate: float) -> dict[str, dict]:
    return {"force_matching": {"learning_rate": rate}, "bptt": {"learning_rate": rate}}


# Strengths were fixed before any of them was tried. Low-rank factors move the weights less than the weights
# themselves would move at the same rate: their rate is four times as high.
VARIANTS = {
    "none": Variant("no remedy", "none", {}),
    "replay_1": Variant("replay 1", "replay", {"replay": {"weight": 1.0}}),
    "rank_8": Variant("rank 8", "low rank", {"parameters": {"rank": 8}} | _rate(2e-3)),
    "readout": Variant("readout", "freezing", {"parameters": {"train_only": ("readout_*",)}}),
    "rate_1e-4": Variant("rate 1e-4", "learning rate", _rate(1e-4)),
    "anchor": Variant("anchor 20", "anchor", {"bptt": {"anchor_weight": 20.0}}),
    "replay_5": Variant("replay 5", "replay", {"replay": {"weight": 5.0}}),
    "last_block": Variant(
        "last block", "freezing", {"parameters": {"train_only": ("atom_update_3", "readout_*")}}
    ),
    "rank_2": Variant("rank 2", "low rank", {"parameters": {"rank": 2}} | _rate(2e-3)),
    "rate_2e-4": Variant("rate 2e-4", "learning rate", _rate(2e-4)),
}


class ForgettingConfig(PartOfSiliconSettings):
    """Settings of the forgetting experiment."""

    force_matching: ForceMatchingSettings = ForceMatchingSettings(epochs=2)
    bptt: BpttSettings = ONE_AT_A_TIME.model_copy(update={"epochs": 2})
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which remedies to compare, in this order."""

    @field_validator("variants")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return check_names(names, VARIANTS)


PRESETS = {
    "smoke": ForgettingConfig(
        preset="smoke",
        data=PartSettings(train=2, validation=1, test=1),
        relaxation=RelaxationSettings(train_steps=4, test_steps=12),
        force_matching=ForceMatchingSettings(epochs=1, batch_size=8),
        bptt=BpttSettings(epochs=1),
        variants=("none", "readout"),
    ),
    "full": ForgettingConfig(),
}
