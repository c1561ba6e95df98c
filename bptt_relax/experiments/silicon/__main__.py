"""``python -m bptt_relax.experiments.silicon``."""

from bptt_relax.experiments import _main
from bptt_relax.experiments.silicon.config import PRESETS, SiliconConfig
from bptt_relax.outcomes import run_program

DESCRIPTION = (
    "Fine-tune a pretrained potential on DFT relaxations of silicon defects, by force matching and by "
    "backpropagation through the relaxation, and compare where relaxations of held-out defects end."
)


main = _main.program("silicon", SiliconConfig, PRESETS, "quick", DESCRIPTION)

if __name__ == "__main__":
    run_program(main)
