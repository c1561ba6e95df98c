"""One setting changed at a time; every model tested with the relaxation it was trained with and with the common one."""

from typing import Any

from bptt_relax.experiments._defects import compare_on_silicon
from bptt_relax.experiments.robustness import figures
from bptt_relax.experiments.robustness.config import VARIANTS, RobustnessConfig
from bptt_relax.finetuning.comparison import Comparison, Drawing, Tuned
from bptt_relax.finetuning.settings import FineTuningSettings, RelaxationSettings
from bptt_relax.finetuning.stages import check_step_size, make_rule
from bptt_relax.finetuning.variants import changed
from bptt_relax.relax import Theta

Found = dict[str, Any]


def run(config: RobustnessConfig) -> int:
    """Do the whole experiment.

    Args:
        config: settings.

    Returns:
        exit code, see `finetuning.comparison.compare`, whose errors it raises.
    """
    drawing = Drawing(figures.draw, lambda found: [figures.table(found)])
    return compare_on_silicon(
        "robustness", config, lambda comparison: _Sweep(comparison, config).run(), drawing
    )


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
        models = [self._train(f"common_seed{seed}", self._seeded(seed), "common") for seed in seeds]
        measured = [
            comparison.measure(tuned.theta, f"common_seed{seed}", f"common seed {seed}")
            for seed, tuned in zip(seeds, models, strict=True)
        ]
        return {
            "seeds": list(seeds),
            "pretrained": comparison.parts([before]),
            "common": comparison.parts(measured)
            | {"training": [tuned.describe() for tuned in models]}
            | {"stability": self._stability(self.common.relaxation)},
            "variants": {name: self._variant(name, models[0]) for name in dict.fromkeys(config.variants)},
        }

    def _seeded(self, seed: int) -> FineTuningSettings:
        return self.common.model_copy(update={"seed": seed})

    def _train(self, name: str, settings: FineTuningSettings, label: str) -> Tuned:
        return self.comparison.train(name, settings, label)

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
            tuned = self._train(name, settings, label)
            found |= tuned.describe() | comparison.parts(
                [self._measure(tuned, name, label, shared, "held_out")]
            )
        if own == shared:
            return found
        found["stability"] = self._stability(own)
        found["tested_with_own"] = {
            "pretrained": comparison.parts(
                [comparison.measure(comparison.start(own), name, f"{label}: pretrained", own, "pretrained")]
            ),
            "common": comparison.parts([self._measure(common, name, f"{label}: common", own, "common")]),
        }
        if tuned is not common:
            measured = self._measure(tuned, name, label, own, "held_out_own")
            found["tested_with_own"]["variant"] = comparison.parts([measured])
        return found

    def _measure(self, tuned: Tuned, name: str, label: str, relaxation: RelaxationSettings, kept_as: str):
        theta = Theta(tuned.theta.potential, self.comparison.start(relaxation).rule)
        return self.comparison.measure(theta, name, label, relaxation, kept_as)

    def _stability(self, relaxation: RelaxationSettings) -> Found:
        """The relaxation against the stiffest training structure, as the pretrained model sees it."""
        comparison = self.comparison
        pairs = [comparison.cases.pair(r) for r in comparison.corpus.select(comparison.corpus.split.train)]
        steady = check_step_size(
            comparison.potential, make_rule(relaxation), comparison.start(relaxation), pairs
        )
        return steady._asdict()
