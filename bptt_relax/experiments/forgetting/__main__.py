"""``python -m bptt_relax.experiments.forgetting``."""

from bptt_relax.experiments import _main
from bptt_relax.experiments.forgetting.config import PRESETS, ForgettingConfig
from bptt_relax.outcomes import run_program

DESCRIPTION = (
    "Fine-tune a pretrained potential on silicon defects with each of several remedies against forgetting, and compare "
    "the error on held-out defects with what has changed on crystals of other chemistry."
)


main = _main.program("forgetting", ForgettingConfig, PRESETS, "full", DESCRIPTION)

if __name__ == "__main__":
    run_program(main)
