"""The bundled silicon defects, split by relaxation, with whole kinds held out."""

from bptt_relax import datasets
from bptt_relax.experiments.silicon.config import DataSettings, SiliconConfig
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.run import fine_tune
from bptt_relax.io.splits import Split
from bptt_relax.report.tables import print_results as show
from bptt_relax.runs import folder as folders
from bptt_relax.runs.session import Finished

__all__ = ["limit", "run", "show"]


def run(config: SiliconConfig) -> Finished:
    """Do the whole experiment.

    Args:
        config: settings.

    Raises:
        InputError, ModelError, Interrupted: see `finetuning.run.fine_tune`.
    """
    folder = folders.choose(config.out, config.resume, f"silicon-{config.preset}")
    data = datasets.load("silicon-defects")
    split = limit(datasets.silicon.split(data.relaxations), config.data)
    return fine_tune("silicon", Corpus(data.name, data.sha256, data.relaxations, split), config, folder)


def limit(split: Split, settings: DataSettings) -> Split:
    """Use only the first structures of each part, where the settings say so."""
    train = split.train[: settings.train_limit or None]
    held_out = (part[: settings.evaluate_limit or None] for part in split[1:])
    return Split(train, *held_out)
