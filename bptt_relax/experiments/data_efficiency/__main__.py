"""``python -m bptt_relax.experiments.data_efficiency``."""

from bptt_relax.experiments import _main
from bptt_relax.experiments.data_efficiency.config import PRESETS, DataEfficiencyConfig
from bptt_relax.outcomes import run_program

DESCRIPTION = (
    "Fine-tune a pretrained potential on 1, 2, 4, ... DFT relaxations of silicon defects, by backpropagation through "
    "the relaxation and by force matching in equal time, and compare where relaxations of held-out defects end."
)


main = _main.program("data_efficiency", DataEfficiencyConfig, PRESETS, "full", DESCRIPTION)

if __name__ == "__main__":
    run_program(main)
