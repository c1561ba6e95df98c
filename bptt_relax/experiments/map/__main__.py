"""``python -m bptt_relax.experiments.map``."""

from bptt_relax.experiments import _main
from bptt_relax.experiments.map.config import PRESETS, MapConfig
from bptt_relax.outcomes import run_program

DESCRIPTION = (
    "Measure the relaxation of held-out silicon defects as an iterated map, before and after training: the residual "
    "of the DFT structure, contraction, the size of the basin, convergence. Takes the tuned models of a run of the "
    "silicon experiment (--run FOLDER), or trains some."
)

main = _main.program("map", MapConfig, PRESETS, "full", DESCRIPTION)

if __name__ == "__main__":
    run_program(main)
