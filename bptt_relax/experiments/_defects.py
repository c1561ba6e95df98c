"""A part of the bundled silicon defects, for experiments that train many models."""

from collections.abc import Callable

from bptt_relax import compilation, datasets
from bptt_relax.experiments._settings import PartOfSiliconSettings, PartSettings
from bptt_relax.finetuning.comparison import Comparison, Drawing, Found, compare
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.io.splits import Split


def part_of_silicon(part: PartSettings) -> Corpus:
    """The first relaxations of each part of the split."""
    data = datasets.load("silicon-defects")
    sizes = (part.train, part.validation, part.test, part.test)
    whole = datasets.silicon.split(data.relaxations)
    split = Split(*(names[:size] for names, size in zip(whole, sizes, strict=True)))
    return Corpus(data.name, data.sha256, data.relaxations, split)


def compare_on_silicon(
    experiment: str, config: PartOfSiliconSettings, work: Callable[[Comparison], Found], drawing: Drawing
) -> int:
    """Run an experiment that compares variants; returns and raises what `finetuning.comparison.compare` does."""
    compilation.keep_compiled_programs()
    return compare(experiment, part_of_silicon(config.data), config, config.preset, work, drawing)
