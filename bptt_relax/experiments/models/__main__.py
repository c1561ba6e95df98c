"""``python -m bptt_relax.experiments.models``."""

from bptt_relax.experiments import _main
from bptt_relax.experiments.models.config import PRESETS, ModelsConfig
from bptt_relax.outcomes import run_program

DESCRIPTION = (
    "Fine-tune several pretrained potentials on the same DFT relaxations of silicon defects, each by force matching "
    "and by backpropagation through the relaxation in equal time, and average what both gain on held-out defects."
)


main = _main.program("models", ModelsConfig, PRESETS, "full", DESCRIPTION)

if __name__ == "__main__":
    run_program(main)
