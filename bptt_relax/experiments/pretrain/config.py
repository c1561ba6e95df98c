"""Settings of the pretraining and its presets: one block of settings for each kind of model."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from bptt_relax.runs.settings import RunSettings, Settings


class TrainingSettings(Settings):
    """How a model is trained."""

    epochs: int = Field(ge=0)
    """How often the model is validated and saved."""
    passes: int = Field(ge=1)
    """Passes over the training frames in one epoch."""
    batch_size: int = Field(ge=1)
    """Frames per update."""
    learning_rate: float = Field(gt=0)
    """Of Adam, at the top of its schedule."""
    final_fraction: float = Field(default=0.02, ge=0, le=1)
    """Of the learning rate, at the end of its schedule."""
    warmup: int = Field(default=0, ge=0)
    """Updates until the learning rate is at its top."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of a gradient."""
    averaging: float = Field(default=0.99, ge=0, lt=1)
    """Weight of the past in the moving average of the parameters, the model that is validated and kept."""
    rotations: Literal["none", "cubic", "any"] = "none"
    """How frames are rotated in training: not, by the rotations of a cube, by any."""


class AdaptSettings(Settings):
    """ADAPT: the published architecture (width 256, hidden 512, 8 layers of 8 heads) at a smaller size."""

    reach: float = Field(default=5.0, ge=0)
    """How far an atom sees, angstrom; 0 for the published form, in which every atom sees all and none has images."""
    slots: int = Field(default=40, ge=1)
    """Most neighbors that an atom may have within its reach."""
    width: int = Field(default=64, ge=1)
    """Of a token."""
    hidden: int = Field(default=128, ge=1)
    """Width of the feed-forward networks."""
    layers: int = Field(default=2, ge=1)
    """Encoder layers."""
    heads: int = Field(default=2, ge=1)
    """Of the attention."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of activations dropped in training."""
    training: TrainingSettings = TrainingSettings(
        epochs=15, passes=5, batch_size=4, learning_rate=1e-3, warmup=100, rotations="any"
    )


class NequipSettings(Settings):
    """NequIP: a small network whose forces are the gradient of an energy."""

    channels: tuple[int, ...] = (16, 8, 4)
    """Of each degree 0, 1, ... of the hidden features."""
    layers: int = Field(default=3, ge=1)
    """Message passing layers."""
    cutoff: float = Field(default=4.5, gt=0.5)
    """How far an atom sees in one layer, angstrom."""
    num_radial: int = Field(default=8, ge=1)
    """Radial basis functions."""
    radial_width: int = Field(default=32, ge=1)
    """Hidden width of the radial network."""
    radial_layers: int = Field(default=2, ge=1)
    """Its hidden layers."""
    num_neighbors: float = Field(default=4.0, gt=0)
    """Sums over neighbors are divided by it: the square root of their number keeps the size of what points anywhere."""
    huber_delta: float = Field(default=0.02, gt=0)
    """Where the loss turns linear, eV/angstrom."""
    training: TrainingSettings = TrainingSettings(
        epochs=12, passes=5, batch_size=1, learning_rate=1e-2, warmup=100, averaging=0.995
    )


class PretrainConfig(RunSettings):
    """Settings of the pretraining."""

    preset: str = "full"
    """Where these settings started from."""
    kind: Literal["adapt", "nequip"] = "adapt"
    """Which model: adapt makes adapt-silicon, nequip makes nequip-silicon."""
    data: Path | None = None
    """Frames with forces to train on and, a share of them, to choose the best model by: any file ASE reads."""
    test: Path | None = None
    """Frames to measure the result on, looked at once, at the end."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of the data to choose the best model by."""
    largest: int = Field(default=64, ge=1)
    """Leave larger structures out of training: all others would be padded to their size."""
    limit: int = Field(default=0, ge=0)
    """Use only so many frames of each file, drawn at random; 0 for all."""
    seed: int = Field(default=0, ge=0)
    """Of the first parameters, the validation part, the order of training and the rotations."""
    adapt: AdaptSettings = AdaptSettings()
    nequip: NequipSettings = NequipSettings()

    def resolved(self) -> dict:
        """Everything that decides the outcome, as JSON; the data go by their hash, wherever they are."""
        return self.model_dump(mode="json", exclude={"out", "resume", "data", "test"})


_SHORT = TrainingSettings(epochs=2, passes=1, batch_size=4, learning_rate=1e-3, rotations="any")

PRESETS = {
    "smoke": PretrainConfig(
        preset="smoke",
        limit=16,
        adapt=AdaptSettings(width=16, hidden=32, layers=2, heads=2, training=_SHORT),
        nequip=NequipSettings(
            channels=(4, 2),
            layers=1,
            radial_width=8,
            radial_layers=1,
            training=_SHORT.model_copy(update={"rotations": "none"}),
        ),
    ),
    "full": PretrainConfig(preset="full"),
}
