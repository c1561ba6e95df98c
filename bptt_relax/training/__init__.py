"""Training on relaxations: objectives, the pure step, and the loop that logs, validates and saves."""

from bptt_relax.training.augmentation import Rotations, draw_rotations, rotate
from bptt_relax.training.checkpoints import Checkpoints
from bptt_relax.training.evaluation import FrameErrors, Relaxed, make_frame_errors, make_relaxer
from bptt_relax.training.loop import Example, Interrupted, Progress, Stage, StageResult, fit
from bptt_relax.training.objectives import (
    DistanceFn,
    LabelledFrame,
    by_cell,
    force_matching,
    relaxed_structure,
    weighted_sum,
)
from bptt_relax.training.optimizers import fine_tuning
from bptt_relax.training.replay import ReplayFrame, agreement, record
from bptt_relax.training.train_step import Objective, StepReport, TrainState, init_state, make_train_step

__all__ = [
    "Checkpoints",
    "DistanceFn",
    "Example",
    "FrameErrors",
    "Interrupted",
    "LabelledFrame",
    "Objective",
    "Progress",
    "Relaxed",
    "ReplayFrame",
    "Rotations",
    "Stage",
    "StageResult",
    "StepReport",
    "TrainState",
    "agreement",
    "by_cell",
    "draw_rotations",
    "fine_tuning",
    "fit",
    "force_matching",
    "init_state",
    "make_frame_errors",
    "make_relaxer",
    "make_train_step",
    "record",
    "relaxed_structure",
    "rotate",
    "weighted_sum",
]
