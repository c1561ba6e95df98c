"""Pretrained -> force matching -> BPTT, with force matching of equal time as the control, from data to results."""

import math
from collections.abc import Callable
from pathlib import Path

import jax

from bptt_relax import processes
from bptt_relax.analysis.forgetting import over_seeds
from bptt_relax.finetuning import figures, preparation, results, structures
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.follow import path_recorder
from bptt_relax.finetuning.forgetting import ForgettingCheck
from bptt_relax.finetuning.measurement import Measurement, Runs
from bptt_relax.finetuning.relaxation import evaluated_relaxations, evaluation_form
from bptt_relax.finetuning.settings import FineTuningSettings
from bptt_relax.finetuning.trainer import Trainer
from bptt_relax.io.checks import changes_cell
from bptt_relax.models import BaseModel, base_model
from bptt_relax.potentials import trainable
from bptt_relax.relax import Theta
from bptt_relax.report.model_card import write_model_cards
from bptt_relax.runs.session import Finished, Found, Session, opened
from bptt_relax.training import StageResult
from bptt_relax.units import parse_bytes


def fine_tune(
    experiment: str,
    corpus: Corpus,
    settings: FineTuningSettings,
    folder: Path,
    base: BaseModel | None = None,
    also: Callable[[Trainer], Found] = lambda trainer: {},
) -> Finished:
    """Fine-tune, measure on what was held out, write everything down.

    Args:
        experiment: what results call it.
        corpus: relaxations and their split.
        settings: everything else.
        folder: of this run, from `runs.folder.choose`.
        base: what to start from; what ``settings.model`` names when not given.
        also: what else an experiment finds, for results.json.

    Raises:
        InputError: anything about the settings, the folder, the data or the weights.
        ModelError: the weights can't be had.
        Interrupted: it was stopped; everything so far is in the folder.
    """
    base = base or base_model(settings.model)
    check(corpus, settings, base)
    config = settings.resolved() | {"data_sha256": corpus.sha256, "params_sha256": base.sha256}
    with opened(folder, config, settings.resume) as session:
        _describe_data(session, corpus, base)
        budget = parse_bytes(settings.memory_budget) if settings.memory_budget else None
        trainer = Trainer(session, corpus, settings, base, memory_budget=budget)
        return Finished(folder, _Recipe(trainer, settings).run(experiment, also))


def check(corpus: Corpus, settings: FineTuningSettings, base: BaseModel) -> None:
    """Refuse what can't be tuned, before anything exists.

    Raises:
        InputError: an element the model doesn't cover, a cell that it or the adjoint can't relax, or parameters to
            train that it doesn't have.
    """
    preparation.check_elements(corpus.used, base.potential.elements)
    preparation.check_cells(corpus.used, base.potential, settings.bptt.adjoint)
    chosen = settings.parameters
    trainable(base.params, freeze=chosen.freeze, train_only=chosen.train_only)


def _describe_data(session: Session, corpus: Corpus, base: BaseModel) -> None:
    train, validation, test, unseen = map(len, corpus.split)
    session.reporter.note(
        f"{base.name} on {corpus.name}: {train} relaxations to train on, {validation} to validate, "
        f"{test} to test, {unseen} of unseen kinds; {jax.default_backend()}"
    )
    if moving := sum(map(changes_cell, corpus.used)):
        session.reporter.note(f"the cell is relaxed too in {moving} of {len(corpus.used)} relaxations")


class _Recipe:
    """The stages of one run over one corpus."""

    def __init__(self, trainer: Trainer, settings: FineTuningSettings):
        self.trainer, self.settings = trainer, settings
        self.session, self.corpus, self.base = trainer.session, trainer.corpus, trainer.base
        self.pretrained = trainer.start()

    def run(self, experiment: str, also: Callable[[Trainer], Found]) -> Found:
        """Everything, in order; returns what results.json holds."""
        session, settings, trainer = self.session, self.settings, self.trainer
        session.reporter.note(trainer.preparation.describe())
        session.reporter.note(f"BPTT: {trainer.batch.sentence}")
        trainer.compile_ahead()
        session.reporter.begin("step size against the stiffest training structure")
        stability = trainer.check_step_size()
        session.reporter.end()
        (session.reporter.note if stability.stable else session.reporter.warn)(stability.sentence)

        runs: Runs = {
            "pretrained": [self._measure(self.pretrained, "pretrained", session.folder, "pretrained")]
        }
        training_s: dict[str, list[float]] = {}
        seeds = range(settings.seed, settings.seed + settings.num_seeds)
        models: dict[str, Theta] = {}
        for seed in seeds:
            session.metrics.context["seed"] = seed
            folder = session.folder / f"seed{seed}"
            stages = self._train(trainer.variant(settings.model_copy(update={"seed": seed})), folder)
            for stage, result in stages.items():
                training_s.setdefault(stage, []).append(round(result.progress.seconds, 1))
            models = _measured(stages)
            for stage, theta in models.items():
                label = f"{stage.replace('_', ' ')} seed {seed}"
                runs.setdefault(stage, []).append(self._measure(theta, stage, folder, label))
                self.base.save(folder / f"{stage}.safetensors", theta.potential)
        for line in trainer.describe_memory():
            session.reporter.note(f"gradients of BPTT: {line}")
        forgotten = self._forgetting(seeds)
        for seed in seeds:
            structures.write(
                trainer.corpus.select(self.corpus.held_out), runs, session.folder / f"seed{seed}"
            )
        found = {
            "dataset": results.dataset(self.corpus),
            "seeds": list(seeds),
            "base_model": results.base_model(self.base.name, self.base.about),
            "models": {self.base.name: results.blocks(self.corpus, runs)},
            "batch": trainer.batch._asdict(),
            "training_s": training_s,
            "stability": stability._asdict(),
            "memory": trainer.describe_memory(),
            **forgotten,
            **also(trainer),
        }
        paths = self._follow({"pretrained": self.pretrained} | models, found["models"][self.base.name])
        processes.write_json(session.folder / "path.json", paths)
        config = settings.resolved()
        written = session.write_results(experiment, config.get("preset"), config, found)
        write_model_cards(session.folder, written)
        held_out = self.corpus.select(self.corpus.held_out)
        figures.draw(session.folder, written, paths, structures.displacements(held_out, runs))
        return written

    def _train(self, trainer: Trainer, folder: Path) -> dict[str, StageResult]:
        """BPTT, after force matching where it starts from there; and force matching of equal time, the control.

        Equal is what led to BPTT together with BPTT itself, against force matching all the way.
        """
        settings, seed = trainer.settings, trainer.settings.seed
        stages: dict[str, StageResult] = {}
        how = trainer.force_matching()
        matches = trainer.has_forces and settings.force_matching.epochs > 0
        after_matching = matches and settings.bptt.start_from == "force_matching"

        def match_forces() -> StageResult:
            return trainer.match_forces(how, f"seed {seed}: force matching", folder=folder / "force_matching")

        if after_matching:
            stages["force_matching"] = match_forces()
        start = stages["force_matching"].theta if after_matching else self.pretrained
        stages["bptt"] = trainer.bptt(start, folder / "bptt", f"seed {seed}: BPTT")
        if not matches:
            self.session.reporter.note("no forces to match, or none wanted: BPTT alone, without a control")
            return stages
        if not after_matching:
            stages["force_matching"] = match_forces()
        matched = stages["force_matching"]
        seconds = stages["bptt"].progress.seconds - (0.0 if after_matching else matched.progress.seconds)
        if seconds <= 0:
            return stages
        per_epoch = max(matched.progress.seconds / max(matched.progress.epoch, 1), 0.1)
        stages["control"] = trainer.match_forces(
            how._replace(
                seed=seed + 1_000_000, epochs=max(1, math.ceil(seconds / per_epoch)), seconds=seconds
            ),
            f"seed {seed}: force matching until it had the time of BPTT",
            start=matched.theta,
            folder=folder / "control",
            name="control",
        )
        return stages

    def _measure(self, theta: Theta, stage: str, folder: Path, label: str) -> dict[str, Measurement]:
        return self.trainer.measure(theta, folder, stage, f"{label}: relaxing held-out structures")

    def _forgetting(self, seeds: range) -> Found:
        """What the tuned models have forgotten, for results.json; empty where that is not looked at."""
        if not self.settings.forgetting:
            return {}
        session = self.session
        session.reporter.begin("what the models say about other chemistry")
        check = ForgettingCheck(self.trainer.potential, self.base.params, self.base.about, self.trainer.train)
        if not check.crystals:
            session.reporter.note(
                "no forgetting check: the model covers no crystal of other chemistry in the probe set"
            )
            return {}
        stages: dict[str, list[Found]] = {}
        for seed in seeds:
            folder = session.folder / f"seed{seed}"
            for weights in sorted(folder.glob("*.safetensors")):
                params = self.base.load(weights)
                path = folder / f"{weights.stem}.forgetting.json"
                changed = session.timed(
                    "forgetting",
                    lambda p=path, w=params: session.once(p, lambda: check(w), processes.mapping),
                )
                stages.setdefault(weights.stem, []).append(changed)
        described = {stage: over_seeds(each) for stage, each in stages.items()}
        return {"forgetting": {"probe": check.describe(), "stages": described}}

    def _follow(self, models: dict[str, Theta], block: Found) -> Found:
        """Follow the relaxation of one test structure: the one whose pretrained error is the median."""
        before = block["pretrained"]["delta_q"]["per_structure"]
        name = sorted(before, key=before.get)[len(before) // 2]
        form = evaluation_form(self.settings.relaxation)._replace(pressure=self.trainer.pressure)
        given, free = evaluated_relaxations(self.trainer.potential, form)
        pair = self.trainer.preparation.pair(self.corpus.select([name])[0])
        relaxation = given if pair.relaxed_cell is None else free
        assert relaxation is not None
        follow = path_recorder(relaxation, form.num_steps)
        return {"name": name, "stages": {stage: follow(theta, pair) for stage, theta in models.items()}}


def _measured(stages: dict[str, StageResult]) -> dict[str, Theta]:
    """The models that are compared: force matching as far as it got, and BPTT."""
    matched = stages.get("control") or stages.get("force_matching")
    found = {} if matched is None else {"force_matching": matched.theta}
    return found | {"bptt": stages["bptt"].theta}
