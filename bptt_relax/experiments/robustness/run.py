"""One setting changed at a time; every model tested with the relaxation it was trained with and with the common one."""

from bptt_relax.experiments._defects import part_of_silicon
from bptt_relax.experiments.robustness import figures
from bptt_relax.experiments.robustness.config import VARIANTS, RobustnessConfig
from bptt_relax.finetuning.comparison import Comparison, Tuned, compare
from bptt_relax.finetuning.measurement import Measurement
from bptt_relax.finetuning.settings import RecipeSettings, RelaxationSettings
from bptt_relax.finetuning.variants import changed
from bptt_relax.report.tables import print_grids
from bptt_relax.runs.session import Finished, Found


def run(config: RobustnessConfig) -> Finished:
    """Do the whole experiment.

    Args:
        config: settings.

    Raises:
        InputError, ModelError, Interrupted: see `finetuning.comparison.compare`.
    """
    corpus = part_of_silicon(config.data)
    return compare(
        "robustness", corpus, config, lambda comparison: _Sweep(comparison, config).run(), figures.draw
    )


def show(results: Found) -> None:
    """Print the table of what was found."""
    print_grids([figures.table(results)])


class _Sweep:
    """The common settings over seeds, then each variant against them.

    Two things can differ: how a model is trained and how it is tested. A variant of the relaxation is tested four
    ways: trained and tested in common, in the variant, and across.
    """

    def __init__(self, comparison: Comparison, config: RobustnessConfig):
        self.comparison, self.config = comparison, config
        self.common = changed(config, {})

    def run(self) -> Found:
        """Everything, in order."""
        comparison, config = self.comparison, self.config
        before = comparison.measure(comparison.pretrained, "pretrained", "pretrained")
        seeds = range(config.seed, config.seed + config.num_seeds)
        models = [
            comparison.train(
                f"common_seed{seed}", self.common.model_copy(update={"seed": seed}), f"common seed {seed}"
            )
            for seed in seeds
        ]
        measured = [
            comparison.measure(tuned.theta, f"common_seed{seed}", f"common seed {seed}")
            for seed, tuned in zip(seeds, models, strict=True)
        ]
        return {
            "seeds": list(seeds),
            "pretrained": comparison.parts([before]),
            "common": comparison.parts(measured)
            | {"training": [tuned.describe() for tuned in models]}
            | {"stability": self._stability(self.common)},
            "variants": {name: self._variant(name, models[0]) for name in dict.fromkeys(config.variants)},
        }

    def _variant(self, name: str, common: Tuned) -> Found:
        variant, comparison = VARIANTS[name], self.comparison
        settings = changed(self.config, variant.changes)
        label = f"{variant.group} {variant.label}"
        own, shared = settings.relaxation, self.common.relaxation
        found: Found = {"label": variant.label, "group": variant.group, "changes": variant.changes}
        # What only changes the test leaves training as it is.
        only_test = own.model_copy(update={"force_tolerance": shared.force_tolerance}) == shared
        tuned = common
        if not (only_test and own != shared):
            tuned = comparison.train(name, settings, label)
            found |= tuned.describe() | comparison.parts(
                [self._measure(tuned, name, label, shared, "held_out")]
            )
        if own == shared:
            return found
        found["stability"] = self._stability(settings)
        found["tested_with_own"] = {
            "pretrained": comparison.parts(
                [
                    comparison.measure(
                        comparison.trainer.start(own), name, f"{label}: pretrained", own, "pretrained"
                    )
                ]
            ),
            "common": comparison.parts([self._measure(common, name, f"{label}: common", own, "common")]),
        }
        if tuned is not common:
            measured = self._measure(tuned, name, label, own, "held_out_own")
            found["tested_with_own"]["variant"] = comparison.parts([measured])
        return found

    def _measure(
        self, tuned: Tuned, name: str, label: str, relaxation: RelaxationSettings, kept_as: str
    ) -> dict[str, Measurement]:
        theta = tuned.theta._replace(rule=self.comparison.trainer.start(relaxation).rule)
        return self.comparison.measure(theta, name, label, relaxation, kept_as)

    def _stability(self, settings: RecipeSettings) -> Found:
        """The relaxation against the stiffest training structure, as the pretrained model sees it."""
        return self.comparison.variant(settings).check_step_size()._asdict()
