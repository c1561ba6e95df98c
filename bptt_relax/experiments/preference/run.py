"""Every arm through the same stages; then each part of a trained model swapped with that of the start."""

import numpy as np

from bptt_relax import relax
from bptt_relax.experiments._defects import part_of_silicon
from bptt_relax.experiments.preference import figures
from bptt_relax.experiments.preference.config import ARMS, PreferenceConfig
from bptt_relax.finetuning.comparison import Comparison, Tuned, compare
from bptt_relax.finetuning.measurement import Measurement
from bptt_relax.finetuning.preference import end_shift, make_sensitivity, movement, rule_values
from bptt_relax.finetuning.relaxation import make_rule
from bptt_relax.finetuning.settings import RecipeSettings
from bptt_relax.finetuning.variants import changed
from bptt_relax.relax import Theta
from bptt_relax.report.tables import print_grids
from bptt_relax.runs.session import Finished, Found

Ends = dict[str, Measurement]
SENSITIVITY = "sensitivity.json"


def run(config: PreferenceConfig) -> Finished:
    """Do the whole experiment.

    Args:
        config: settings.

    Raises:
        InputError, ModelError, Interrupted: see `finetuning.comparison.compare`.
    """
    corpus = part_of_silicon(config.data)
    return compare(
        "preference", corpus, config, lambda comparison: _Arms(comparison, config).run(), figures.draw
    )


def show(results: Found) -> None:
    """Print the table of what was found."""
    print_grids([figures.table(results)])


class _Arms:
    """All arms, and what they are compared with: the model they start from, after force matching."""

    def __init__(self, comparison: Comparison, config: PreferenceConfig):
        self.comparison, self.config = comparison, config

    def run(self) -> Found:
        """Everything, in order."""
        comparison, config = self.comparison, self.config
        before = comparison.measure(comparison.pretrained, "pretrained", "pretrained")
        seeds = range(config.seed, config.seed + config.num_seeds)
        return {
            "seeds": list(seeds),
            "pretrained": comparison.parts([before]),
            "sensitivity": self._sensitivity(),
            "arms": {name: self._arm(name, seeds) for name in dict.fromkeys(config.arms)},
        }

    def _arm(self, name: str, seeds: range) -> Found:
        arm = ARMS[name]
        each = [self._seed(name, seed) for seed in seeds]
        blocks = {
            which: self.comparison.parts([ends[which] for _, ends in each])
            for which in ("start", "trained", "potential_alone", "rule_alone")
        }
        return {"label": arm.label, "group": arm.group, "changes": arm.changes, **blocks} | {
            "seeds": [found for found, _ in each]
        }

    def _seed(self, name: str, seed: int) -> tuple[Found, dict[str, Ends]]:
        """Train once; then relax with both parts, and with each part while the other is that of the start."""
        comparison, arm = self.comparison, ARMS[name]
        settings = changed(self.config, arm.changes).model_copy(update={"seed": seed})
        folder, label = f"{name}_seed{seed}", f"{arm.label} seed {seed}"
        tuned = comparison.train(folder, settings, label)
        start = self._start(tuned, settings)
        models = {
            "start": start,
            "trained": tuned.theta,
            "potential_alone": tuned.theta._replace(rule=start.rule),
            "rule_alone": start._replace(rule=tuned.theta.rule),
        }
        horizon = settings.relaxation.model_copy(
            update={"test_steps": settings.relaxation.train_steps, "force_tolerance": 0.0}
        )
        converged, on_the_way = {}, {}
        for which, theta in models.items():
            converged[which] = comparison.measure(
                theta, folder, f"{label}, {which}", settings.relaxation, f"{which}_converged"
            )
            on_the_way[which] = comparison.measure(
                theta, folder, f"{label}, {which}", horizon, f"{which}_horizon"
            )
        found = {
            **tuned.describe(),
            "movement": movement(start, tuned.theta)._asdict(),
            "rule_before": rule_values(start.rule),
            "rule_after": rule_values(tuned.theta.rule),
            "end_shift": {"converged": self._shifts(converged), "horizon": self._shifts(on_the_way)},
        }
        return found, converged

    def _start(self, tuned: Tuned, settings: RecipeSettings) -> Theta:
        """What BPTT started from."""
        start = self.comparison.trainer.start(settings.relaxation)
        matched = tuned.stages.get("force_matching")
        return start if matched is None else start._replace(potential=matched.theta.potential)

    def _shifts(self, ends: dict[str, Ends]) -> dict[str, float]:
        """How far each part alone moves the ends, mean over held-out structures."""
        names = sorted(ends["start"])
        preparation = self.comparison.trainer.preparation
        pairs = [preparation.pair(r) for r in self.comparison.corpus.select(names)]

        def positions(which: str) -> list[np.ndarray]:
            return [ends[which][name].relaxed.positions for name in names]

        return {
            which: float(np.mean(end_shift(positions(which), positions("start"), pairs)))
            for which in ("trained", "potential_alone", "rule_alone")
        }

    def _sensitivity(self) -> Found:
        """Of Delta Q to both parts of the pretrained model, against the number of steps, on training structures."""
        comparison, config = self.comparison, self.config
        session, trainer = comparison.session, comparison.trainer

        def make() -> Found:
            find = make_sensitivity(
                relax.relaxation(comparison.potential, make_rule(config.relaxation)), config.looked_at
            )
            relaxations, each = trainer.train[: config.structures], {}
            session.reporter.begin(
                "sensitivity of Delta Q to potential and rule", len(relaxations), unit="structures"
            )
            for relaxation in relaxations:
                pair = trainer.preparation.pair(relaxation)
                each[relaxation.name] = find(comparison.pretrained, pair)._asdict()
                session.reporter.advance(structure=relaxation.name)
                session.check_stop("sensitivity")
            session.reporter.end()
            return {"steps": list(config.looked_at), "per_structure": each}

        return session.once(session.folder / SENSITIVITY, make)
