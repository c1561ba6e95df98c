"""One training per way to differentiate, all for the same time; where held-out and competing starts end."""

from collections.abc import Mapping, Sequence

from bptt_relax.experiments._defects import part_of_silicon
from bptt_relax.experiments.adjoints import figures
from bptt_relax.experiments.adjoints.config import VARIANTS, AdjointsConfig
from bptt_relax.experiments.adjoints.cost import Cost, costs
from bptt_relax.finetuning.comparison import Comparison, compare
from bptt_relax.finetuning.competing import Ending, candidates, competing, num_minima, select
from bptt_relax.finetuning.evaluator import Evaluator
from bptt_relax.finetuning.measurement import Measurement
from bptt_relax.finetuning.preparation import Preparation
from bptt_relax.finetuning.relaxation import evaluation_form
from bptt_relax.finetuning.statistics import mean_interval
from bptt_relax.finetuning.trainer import Trainer
from bptt_relax.finetuning.variants import changed
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError
from bptt_relax.relax import Theta
from bptt_relax.report.metrics import read_metrics
from bptt_relax.report.names import readable
from bptt_relax.report.tables import print_grids
from bptt_relax.runs.session import Finished, Found
from bptt_relax.training import Stage, StageResult

FORCES = "forces"
"""The variant that differentiates no relaxation."""

Measured = Mapping[str, Measurement]


def run(config: AdjointsConfig) -> Finished:
    """Do the whole experiment.

    Args:
        config: settings.

    Raises:
        InputError, ModelError, Interrupted: see `finetuning.comparison.compare`; or no defect competes.
    """
    corpus = part_of_silicon(config.data)
    return compare(
        "adjoints", corpus, config, lambda comparison: _Adjoints(comparison, config).run(), figures.draw
    )


def show(results: Found) -> None:
    """Print the table of what was found."""
    print_grids([figures.table(results)])


class _Adjoints:
    """All variants of one run."""

    def __init__(self, comparison: Comparison, config: AdjointsConfig):
        self.comparison, self.config, self.session = comparison, config, comparison.session
        held_out = comparison.corpus.select(comparison.corpus.held_out)
        self.held_out = [r for r in held_out if r.kind != "bulk"]
        # All that may be needed, so that one evaluator, and its programs, measure every model.
        self.starts = [s for r in self.held_out for s in candidates(r, config.starts.fractions)]
        self.evaluator = Evaluator(
            Preparation(self.starts, comparison.potential, config.relaxation.skin),
            self.starts,
            comparison.potential,
            evaluation_form(config.relaxation),
            comparison.trainer.predict,
        )

    def run(self) -> Found:
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

    def _competing(self) -> tuple[list[Relaxation], Found, Measured]:
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
            label = f"{name.replace('_', ' ')}: competing starts, {readable(defect)}"
            found |= self.comparison.trainer.measure(
                theta, folder, defect, label, names=names, evaluator=self.evaluator
            )
        return found

    def _costs(self, names: list[str]) -> dict[str, Cost]:
        """Memory and time of one update of each variant, measured once."""
        config, session = self.config, self.session

        def on_update() -> None:
            session.reporter.advance()
            session.check_stop("costs")

        def make() -> Found:
            stages = {name: self._stage(name) for name in names}
            session.reporter.begin("memory and time of an update", config.timed * len(names), unit="updates")
            theta = self.comparison.pretrained
            found = session.timed(
                "costs", lambda: costs(stages, theta, config.timed, forces=FORCES, on_update=on_update)
            )
            return {name: cost._asdict() for name, cost in found.items()}

        kept = session.once(session.folder / "costs.json", make)
        return {name: Cost(**stored) for name, stored in kept.items()}

    def _trainer(self, name: str, epochs: int = 1) -> Trainer:
        """Of a variant, for so many epochs of its one stage."""
        recipe = changed(self.config, VARIANTS[name].changes)
        stage = "force_matching" if name == FORCES else "bptt"
        chosen = getattr(recipe, stage).model_copy(update={"epochs": epochs})
        return self.comparison.variant(recipe.model_copy(update={stage: chosen}))

    def _stage(self, name: str) -> Stage:
        trainer = self._trainer(name)
        if name == FORCES:
            return trainer.force_matching_stage(trainer.force_matching(), name=name)
        return trainer.bptt_stage(name=name)

    def _variant(self, name: str, cost: Cost, chosen: list[Relaxation]) -> Found:
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
        """As many epochs as fit the time best, counted at the measured cost of an update.

        A machine busy with other things then gives nobody more or less.
        """
        comparison, session, start = self.comparison, self.session, self.comparison.pretrained
        session.metrics.context["variant"] = name
        trainer = self._trainer(name)
        how = trainer.force_matching()
        updates = trainer.force_updates_per_epoch(how) if name == FORCES else trainer.updates_per_epoch
        epochs = max(1, round(self.config.seconds / (updates * cost.seconds)))
        trainer = self._trainer(name, epochs)
        folder, label = session.folder / name, f"{VARIANTS[name].label}: training"
        if name == FORCES:
            how = trainer.force_matching()
            trained = trainer.match_forces(how, label, start=start, folder=folder / "training", name=name)
        else:
            trained = trainer.bptt(start, folder / "training", label, name=name)
        comparison.base.save(folder / "tuned.safetensors", trained.theta.potential)
        return trained


def outcome(chosen: Sequence[Relaxation], measured: Measured) -> Found:
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
