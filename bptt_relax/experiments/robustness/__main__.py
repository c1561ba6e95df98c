"""``python -m bptt_relax.experiments.robustness``."""

from bptt_relax.experiments import _main
from bptt_relax.experiments.robustness.config import PRESETS, RobustnessConfig
from bptt_relax.outcomes import run_program

DESCRIPTION = (
    "Fine-tune a pretrained potential on silicon defects by backpropagation through relaxations, with one setting of "
    "relaxation or training changed at a time, and test each model with its own relaxation and with the common one."
)

main = _main.program("robustness", RobustnessConfig, PRESETS, "full", DESCRIPTION)

if __name__ == "__main__":
    run_program(main)
