"""``python -m bptt_relax.experiments.preference``."""

from bptt_relax.experiments import _main
from bptt_relax.experiments.preference.config import PRESETS, PreferenceConfig
from bptt_relax.outcomes import run_program

DESCRIPTION = (
    "Backpropagate through relaxations of silicon defects into the potential, into the numbers of the relaxation, or "
    "into both, and compare how far each moves, how far that moves the ends, and what it gains."
)

main = _main.program("preference", PreferenceConfig, PRESETS, "full", DESCRIPTION)

if __name__ == "__main__":
    run_program(main)
