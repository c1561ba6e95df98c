"""``python -m bptt_relax.experiments.crystals``."""

from bptt_relax.experiments import _main
from bptt_relax.experiments.crystals.config import PRESETS, CrystalsConfig
from bptt_relax.outcomes import run_program

DESCRIPTION = (
    "Fine-tune a pretrained potential on DFT relaxations of crystals, with free and with given cells, by matching "
    "forces and stresses and by backpropagation through the relaxation, and compare where relaxations of crystals that "
    "were held out end."
)


main = _main.program("crystals", CrystalsConfig, PRESETS, "quick", DESCRIPTION)

if __name__ == "__main__":
    run_program(main)
