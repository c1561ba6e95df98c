"""Every arm on nested sets of relaxations, in the time that force matching and BPTT take on the same set."""

import math
from collections.abc import Mapping
from typing import Any

from bptt_relax.experiments._defects import part_of_silicon
from bptt_relax.experiments.data_efficiency import figures
from bptt_relax.experiments.data_efficiency.config import ARMS, DataEfficiencyConfig
from bptt_relax.experiments.data_efficiency.convergence import converged_at, path
from bptt_relax.experiments.data_efficiency.subsets import end_frames_alone, subset
from bptt_relax.finetuning import statistics
from bptt_relax.finetuning.comparison import Comparison, Tuned, compare
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.measurement import Measurement
from bptt_relax.relax import Theta
from bptt_relax.report.metrics import read_metrics
from bptt_relax.report.tables import print_grids
from bptt_relax.runs.session import Finished, Found
from bptt_relax.training import StageResult

Measured = dict[str, Measurement]

PARTS = ("test", "unseen")
AGAINST = (("structures", "end_frames"), ("structures", "all_steps"), ("recipe", "all_steps"))
"""Arms that are compared structure by structure: BPTT, and force matching on as much or more."""


def run(config: DataEfficiencyConfig) -> Finished:
    """Do the whole experiment.

    Args:
        config: settings.

    Raises:
        InputError, ModelError, Interrupted: see `finetuning.comparison.compare`.
    """
    corpus = part_of_silicon(config.data)
    for size in config.sizes:
        subset(corpus, size, 0, config.least_unrolls)  # refused before anything exists
    return compare(
        "data_efficiency", corpus, config, lambda comparison: _work(comparison, config), figures.draw
    )


def show(results: Found) -> None:
    """Print the tables of what was found."""
    print_grids(figures.tables(results))


def _work(comparison: Comparison, config: DataEfficiencyConfig) -> Found:
    before = comparison.parts([comparison.measure(comparison.pretrained, "pretrained", "pretrained")])
    sizes = {}
    for size in config.sizes:
        draws = [_draw(comparison, config, size, draw) for draw in range(config.draws)]
        arms = {
            arm: comparison.parts([measured[arm] for _, measured in draws])
            | {"draws": [described[arm] for described, _ in draws]}
            for arm in ARMS
        }
        sizes[str(size)] = {
            "train": [described["train"] for described, _ in draws],
            "arms": {arm: found | {"reduction": _reductions(before, found)} for arm, found in arms.items()},
            "against": {f"{a} against {b}": _reductions(arms[b], arms[a]) for a, b in AGAINST},
        }
    return {
        "arms": {arm: {"label": variant.label, "changes": variant.changes} for arm, variant in ARMS.items()},
        "pretrained": before,
        "sizes": sizes,
    }


def _draw(
    comparison: Comparison, config: DataEfficiencyConfig, size: int, draw: int
) -> tuple[Found, dict[str, Measured]]:
    """All arms on one set of relaxations: how each went, and what it does on held-out structures."""
    corpus = subset(comparison.corpus, size, draw, config.least_unrolls)
    arms = _Arms(comparison, config, corpus, size, draw)
    recipe = arms.bptt("recipe")
    # The first update of a stage, which may have to compile, counts for none of them.
    matching, bptt = (recipe[stage].progress for stage in ("force_matching", "bptt"))
    seconds = matching.seconds + bptt.seconds
    arms.bptt("structures", seconds, bptt=_epochs(seconds, bptt.seconds / bptt.epoch))
    per_epoch = matching.seconds / matching.epoch
    for arm, frames in (("all_steps", corpus), ("end_frames", end_frames_alone(corpus))):
        arms.force_matching(arm, frames, seconds, force_matching=_epochs(seconds, per_epoch))
    return arms.found | {"train": list(dict.fromkeys(corpus.split.train))}, arms.measured


def _epochs(seconds: float, per_epoch: float) -> int:
    """Epochs that fill so much time, the last one perhaps in part."""
    return max(1, math.ceil(seconds / max(per_epoch, 1e-3)))


class _Arms:
    """The arms on one set of relaxations.

    Attributes:
        found: how each arm went, for results.json.
        measured: each arm on everything held out.
    """

    def __init__(
        self, comparison: Comparison, config: DataEfficiencyConfig, corpus: Corpus, size: int, draw: int
    ):
        self._comparison, self._config, self._corpus, self._draw = comparison, config, corpus, draw
        self._where = f"n{size}_draw{draw}"
        self.found: Found = {}
        self.measured: dict[str, Measured] = {}

    def bptt(self, arm: str, seconds: float = math.inf, **epochs: int) -> dict[str, StageResult]:
        """Train an arm that ends with BPTT; returns its stages."""
        name, label = self._names(arm)
        settings = self._config.for_arm(arm, self._draw, **epochs)
        tuned = self._comparison.train(name, settings, label, self._corpus, seconds)
        self._keep(arm, tuned.theta, tuned.describe())
        return tuned.stages

    def force_matching(self, arm: str, corpus: Corpus, seconds: float, **epochs: int) -> None:
        """Train an arm that matches forces alone."""
        name, label = self._names(arm)
        self._comparison.session.metrics.context["variant"] = name
        settings = self._config.for_arm(arm, self._draw, **epochs)
        matched = self._comparison.match_forces(settings, label, corpus, seconds)
        self._keep(arm, matched.theta, Tuned(matched.theta, {"force_matching": matched}).describe())
        self._comparison.base.save(
            self._comparison.session.folder / name / "force_matching.safetensors", matched.theta.potential
        )

    def _names(self, arm: str) -> tuple[str, str]:
        return f"{self._where}_{arm}", f"{self._where.replace('_', ' ')}, {ARMS[arm].label}"

    def _keep(self, arm: str, theta: Theta, described: Mapping[str, Any]) -> None:
        name, label = self._names(arm)
        self.measured[arm] = self._comparison.measure(theta, name, label)
        points = path(read_metrics(self._comparison.session.metrics.path), name)
        self.found[arm] = {
            **described,
            "converged_at": converged_at(points)._asdict(),
            "path": [point._asdict() for point in points],
        }


def _reductions(before: Found, after: Found) -> Found:
    """Reductions of the mean Delta Q with their intervals, on each part."""
    found = {}
    for part in PARTS:
        if part not in before:
            continue
        b, a = before[part]["delta_q"], after[part]["delta_q"]
        interval = statistics.reduction_interval(b["per_seed"], a["per_seed"])
        found[part] = {"mean": statistics.reduction(b["mean"], a["mean"]), "ci95": list(interval)}
    return found
