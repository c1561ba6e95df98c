"""A part of the bundled silicon defects, for experiments that train many models."""

from bptt_relax import datasets
from bptt_relax.experiments._settings import PartSettings
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.io.splits import Split


def part_of_silicon(part: PartSettings) -> Corpus:
    """The first relaxations of each part of the split."""
    data = datasets.load("silicon-defects")
    sizes = (part.train, part.validation, part.test, part.test)
    whole = datasets.silicon.split(data.relaxations)
    split = Split(*(names[:size] for names, size in zip(whole, sizes, strict=True)))
    return Corpus(data.name, data.sha256, data.relaxations, split)
