"""``python -m bptt_relax.experiments.adjoints``."""

from bptt_relax.experiments import _main
from bptt_relax.experiments.adjoints.config import PRESETS, AdjointsConfig
from bptt_relax.outcomes import run_program

DESCRIPTION = (
    "Fine-tune a pretrained potential on silicon defects with each of several ways to differentiate a relaxation, for "
    "the same training time, and compare errors on held-out defects, how often starts with competing minima end in the "
    "right one, memory and time."
)

main = _main.program("adjoints", AdjointsConfig, PRESETS, "full", DESCRIPTION)

if __name__ == "__main__":
    run_program(main)
