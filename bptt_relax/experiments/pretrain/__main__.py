"""``python -m bptt_relax.experiments.pretrain``."""

from bptt_relax.experiments import _main
from bptt_relax.experiments.pretrain.config import PRESETS, PretrainConfig
from bptt_relax.outcomes import run_program

DESCRIPTION = (
    "Train a potential from random parameters on forces of single points, as adapt-silicon and nequip-silicon were. "
    "The data are not part of the package: --data and --test say where they are."
)


main = _main.program("pretrain", PretrainConfig, PRESETS, "full", DESCRIPTION)

if __name__ == "__main__":
    run_program(main)
