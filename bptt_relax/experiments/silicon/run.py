"""The bundled silicon defects, split by relaxation, with whole kinds held out."""

from bptt_relax import compilation, datasets
from bptt_relax.experiments.silicon.config import DataSettings, SiliconConfig
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.run import run as finetune
from bptt_relax.io.splits import Split


def run(config: SiliconConfig) -> int:
    """Do the whole experiment.

    Args:
        config: settings.

    Returns:
        exit code, see `finetuning.run.run`, whose errors it raises.
    """
    compilation.keep_compiled_programs()
    data = datasets.load("silicon-defects")
    split = limit(datasets.silicon.split(data.relaxations), config.data)
    corpus = Corpus(data.name, data.sha256, data.relaxations, split)
    return finetune("silicon", corpus, config, f"silicon-{config.preset}")


def limit(split: Split, settings: DataSettings) -> Split:
    """Use only the first structures of each part, where the settings say so."""
    train = split.train[: settings.train_limit or None]
    held_out = (part[: settings.evaluate_limit or None] for part in split[1:])
    return Split(train, *held_out)
