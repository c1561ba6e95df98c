"""Training on relaxations: objectives, the pure step, and the loop that logs, validates and saves."""

from bptt_relax.training.augmentation import Rotations, draw_rotations, rotate
from bptt_relax.training.checkpoints import Checkpoints
from bptt_relax.training.evaluation import (
    FrameErrors,
    Relaxed,
    Relaxer,
    frame_errors,
)
from bptt_relax.training.gradients import BatchGradient, EventFn, Example, Gradients
from bptt_relax.training.loop import BadUpdate, Batch, Progress, Stage, StageResult, Term, fit
from bptt_relax.training.objectives import (
    DistanceFn,
    LabelledFrame,
    by_cell,
    force_matching,
    relaxed_structure,
)
from bptt_relax.training.optimizers import fine_tuning
from bptt_relax.training.packing import Packed, like, pack, pack_on_host
from bptt_relax.training.replay import ReplayFrame, agreement, record
from bptt_relax.training.train_step import (
    BatchReport,
    ExampleReport,
    Objective,
    TrainState,
    gradient_sum,
    init_state,
    make_train_step,
)

__all__ = [
    "BadUpdate",
    "Batch",
    "BatchGradient",
    "BatchReport",
    "Checkpoints",
    "DistanceFn",
    "EventFn",
    "Example",
    "ExampleReport",
    "FrameErrors",
    "Gradients",
    "LabelledFrame",
    "Objective",
    "Packed",
    "Progress",
    "Relaxed",
    "Relaxer",
    "ReplayFrame",
    "Rotations",
    "Stage",
    "StageResult",
    "Term",
    "TrainState",
    "agreement",
    "by_cell",
    "draw_rotations",
    "fine_tuning",
    "fit",
    "force_matching",
    "frame_errors",
    "gradient_sum",
    "init_state",
    "like",
    "make_train_step",
    "pack",
    "pack_on_host",
    "record",
    "relaxed_structure",
    "rotate",
]
