"""One training per way to differentiate, all for the same time; where held-out and competing starts end."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bptt_relax import processes, relax
from bptt_relax.experiments._defects import compare_on_silicon
from bptt_relax.experiments.adjoints import figures
from bptt_relax.experiments.adjoints.config import VARIANTS, AdjointsConfig
from bptt_relax.experiments.adjoints.cost import Cost, costs
from bptt_relax.finetuning import cases as casing
from bptt_relax.finetuning import recorded
from bptt_relax.finetuning.comparison import Comparison, Drawing
from bptt_relax.finetuning.competing import Ending, candidates, competing, num_minima, select
from bptt_relax.finetuning.measure import Measurement, Ruler
from bptt_relax.finetuning.settings import ForceMatchingSettings
from bptt_relax.finetuning.stages import FRAMES_PER_UNROLL, Bench, make_rule
from bptt_relax.finetuning.statistics import mean_interval
from bptt_relax.finetuning.variants import changed
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError
from bptt_relax.relax import Theta
from bptt_relax.report.metrics import read_metrics
from bptt_relax.report.names import readable
from bptt_relax.training import Interrupted, Stage, StageResult

FORCES = "forces"
"""The variant that differentiates no relaxation."""

Measured = Mapping[str, Measurement]


def run(config: AdjointsConfig) -> int:
    """Do the whole experiment.

    Args:
        config: settings.

    Returns:
        exit code, see `finetuning.comparison.compare`, whose errors it raises.
    """
    drawing = Drawing(figures.draw, lambda found: [figures.table(found)])
    return compare_on_silicon(
        "adjoints", config, lambda comparison: _Adjoints(comparison, config).run(), drawing
    )


class _Adjoints:
    """All variants of one run."""

    def __init__(self, comparison: Comparison, config: AdjointsConfig):
        self.comparison, self.config, self.session = comparison, config, comparison.session
        held_out = comparison.corpus.select(comparison.corpus.held_out)
        self.held_out = [r for r in held_out if r.kind != "bulk"]
        # Of these all that may be needed, so that one ruler, and one program, measures every model.
        self.starts = [s for r in self.held_out for s in candidates(r, config.starts.fractions)]
        relaxer = relax.relaxation(
            comparison.potential,
            make_rule(config.relaxation),
            force_tolerance=config.relaxation.force_tolerance,
        )
        cases = casing.make_cases(
            self.starts, comparison.potential.graph, config.relaxation.skin, comparison.potential.elements
        )
        self.ruler = Ruler(
            cases,
            self.starts,
            comparison.potential,
            relaxer,
            config.relaxation.test_steps,
        )

    def run(self) -> dict[str, Any]:
        """Every variant in turn; returns what results.json holds."""
        comparison, config = self.comparison, self.config
        names = list(dict.fromkeys(config.variants))
        chosen, described, before = self._competing()
        cost = self._costs(names)
        pretrained = comparison.measure(comparison.pretrained, "pretrained", "pretrained")
        return {
            "seconds": config.seconds,
            "competing": described,
            "pretrained": outcome(chosen, before) | comparison.parts([pretrained]),
            "variants": {name: self._variant(name, cost[name], chosen) for name in names},
        }

    def _competing(self) -> tuple[list[Relaxation], dict[str, Any], Measured]:
        """Starts of defects that the pretrained model sends to several minima, how they were found, and where it does.

        Raises:
            InputError: no defect competes.
        """
        config, theta = self.config, self.comparison.pretrained
        near = {s.name for r in self.held_out for s in candidates(r, config.starts.screen)}
        screened = [s for s in self.starts if s.name in near]
        ends = self._relax(theta, screened, "pretrained", "screened")
        defects = competing(screened, _endings(ends))
        if not defects:
            raise InputError(
                f"none of {len(self.held_out)} held-out defects has starts with competing minima: take more with "
                "--data.test, or other --starts.screen"
            )
        rest = [s for s in self.starts if s.info["of"] in defects and s.name not in near]
        ends = {**ends, **self._relax(theta, rest, "pretrained", "rest")}
        chosen = select(self.starts, defects, config.starts.count)
        by_defect = {
            name: {
                "starts": sum(s.info["of"] == name for s in chosen),
                "minima": num_minima(
                    [_ending(ends[s.name]) for s in self.starts if s.info["of"] == name],
                    next(r.relaxed.cell for r in self.held_out if r.name == name),
                ),
            }
            for name in defects
        }
        described = {"screened": len(screened), "starts": [s.name for s in chosen], "defects": by_defect}
        return chosen, described, ends

    def _relax(self, theta: Theta, starts: list[Relaxation], name: str, kept_as: str) -> Measured:
        """Where starts end, kept defect by defect: an interrupted run goes on with the next."""
        folder, found = self.session.folder / name / kept_as, {}
        for defect in dict.fromkeys(start.info["of"] for start in starts):
            names = [start.name for start in starts if start.info["of"] == defect]
            title = f"{name.replace('_', ' ')}: competing starts, {readable(defect)}"
            found |= recorded.measure(self.session, self.ruler, theta, names, folder, defect, title)
        return found

    def _costs(self, names: list[str]) -> dict[str, Cost]:
        """Memory and time of one gradient of each variant; measured once."""
        config, session = self.config, self.session
        path = session.folder / "costs.json"
        if not path.is_file():
            session.reporter.begin("memory and time of a gradient", len(names), unit="adjoints")
            found = session.timed(
                "costs",
                lambda: costs(
                    {name: self._stage(name) for name in names if name != FORCES},
                    self._stage(FORCES, batch_size=FRAMES_PER_UNROLL),
                    config.bptt.force_weight,
                    self.comparison.pretrained,
                    config.timed,
                    self._compiled,
                ),
            )
            processes.write_json(path, {name: cost._asdict() for name, cost in found.items()})
        return {name: Cost(**stored) for name, stored in json.loads(path.read_text()).items()}

    def _compiled(self) -> None:
        self.session.reporter.advance()
        if self.session.stop():
            raise Interrupted("costs")

    def _stage(self, name: str, *, cost: Cost | None = None, batch_size: int | None = None) -> Stage:
        """A variant's training.

        Args:
            name: of the variant.
            cost: of one update: as many epochs as fit the time best, counted at this cost, so that a machine busy with
                other things gives nobody more or less. One epoch when not given.
            batch_size: of force matching, where it is to be another than in the settings.
        """
        config = self.config
        settings = changed(config, VARIANTS[name].changes)
        bench = self.comparison.bench(settings)
        matching = config.force_matching
        if batch_size is not None:
            matching = matching.model_copy(update={"batch_size": batch_size})
        updates = _updates_per_epoch(name, bench, matching)
        epochs = 1 if cost is None else max(1, round(config.seconds / (updates * cost.seconds)))
        if name == FORCES:
            return bench.force_matching_stage(matching, config.seed, name=name, epochs=epochs)
        bptt = settings.bptt.model_copy(update={"epochs": epochs})
        return dataclasses.replace(bench.bptt_stage(bptt, config.seed), name=name)

    def _variant(self, name: str, cost: Cost, chosen: list[Relaxation]) -> dict[str, Any]:
        variant, comparison = VARIANTS[name], self.comparison
        trained = self._train(name, cost)
        measured = comparison.measure(trained.theta, name, variant.label)
        ends = self._relax(trained.theta, chosen, name, "competing")
        progress = trained.progress
        return {
            "label": variant.label,
            "group": variant.group,
            "cost": cost._asdict(),
            "epochs": progress.epoch,
            "updates": self._updates(name),
            "skipped": sum(progress.skipped.values()),
            "validation": progress.score,
            "best_epoch": progress.best_epoch,
            "training_s": round(progress.seconds, 1),
            **outcome(chosen, ends),
            **comparison.parts([measured]),
        }

    def _updates(self, name: str) -> int:
        """How many updates a variant's training made, over interruptions."""
        events = read_metrics(self.session.metrics.path)
        return max((e["step"] for e in events if e["event"] == "step" and e["stage"] == name), default=0)

    def _train(self, name: str, cost: Cost) -> StageResult:
        comparison, session = self.comparison, self.session
        session.metrics.context["variant"] = name
        stage = self._stage(name, cost=cost)
        folder, bench = session.folder / name, comparison.bench(changed(self.config, VARIANTS[name].changes))
        total = stage.epochs * _updates_per_epoch(name, bench, self.config.force_matching)
        session.reporter.begin(f"{VARIANTS[name].label}: training", total)
        trained = session.timed(
            "training", lambda: bench.fit(stage, comparison.pretrained, folder / "training")
        )
        comparison.base.save(folder / "tuned.safetensors", trained.theta.potential)
        return trained


def _updates_per_epoch(name: str, bench: Bench, matching: ForceMatchingSettings) -> int:
    return bench.num_force_batches(matching) if name == FORCES else len(bench.train)


def outcome(chosen: Sequence[Relaxation], measured: Measured) -> dict[str, Any]:
    """How many starts end in the right minimum, over all and by defect.

    Args:
        chosen: starts of competing defects.
        measured: where they end, and perhaps others.
    """
    hit = {start.name: float(measured[start.name].relaxed.same_basin) for start in chosen}
    by_defect: dict[str, list[int]] = {}
    for start in chosen:
        found = by_defect.setdefault(start.info["of"], [0, 0])
        found[0] += int(hit[start.name])
        found[1] += 1
    return {
        "basins": {
            "starts": len(chosen),
            "hits": int(sum(hit.values())),
            "rate": sum(hit.values()) / len(chosen),
            # Over starts; those of one defect are alike, so this is the least that is not known.
            "ci95": list(mean_interval({name: [value] for name, value in hit.items()})),
            "by_defect": by_defect,
        }
    }


def _endings(measured: Measured) -> dict[str, Ending]:
    return {name: _ending(m) for name, m in measured.items()}


def _ending(measured: Measurement) -> Ending:
    return Ending(measured.relaxed.positions, measured.relaxed.same_basin)
