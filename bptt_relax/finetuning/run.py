"""Pretrained -> force matching -> BPTT, with force matching of equal time as the control, from data to results."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from bptt_relax import processes, relax
from bptt_relax.analysis.forgetting import over_seeds
from bptt_relax.finetuning import cases as casing
from bptt_relax.finetuning import figures, recorded, results, structures, workspace
from bptt_relax.finetuning.bench import make_bench, make_programs
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.forgetting import Check
from bptt_relax.finetuning.measure import Measurement, Ruler, Runs, path_recorder
from bptt_relax.finetuning.session import Session, opened
from bptt_relax.finetuning.settings import FineTuningSettings
from bptt_relax.finetuning.stages import check_step_size, make_cell_relaxation, make_rule
from bptt_relax.io.checks import changes_cell
from bptt_relax.models import BaseModel, base_model
from bptt_relax.potentials import trainable
from bptt_relax.relax import Theta
from bptt_relax.report.environment import environment, peak_rss_mb
from bptt_relax.report.model_card import write_model_cards
from bptt_relax.report.tables import print_results
from bptt_relax.training import Interrupted, StageResult


def run(
    experiment: str,
    corpus: Corpus,
    settings: FineTuningSettings,
    folder_name: str,
    base: BaseModel | None = None,
) -> int:
    """Fine-tune, measure on what was held out, write everything down.

    Args:
        experiment: what results call it.
        corpus: relaxations and their split.
        settings: everything else.
        folder_name: under ``runs/`` where the settings name no folder.
        base: what to start from; what ``settings.model`` names when not given.

    Returns:
        exit code: 0, or 128 + the signal that interrupted it.

    Raises:
        InputError: anything about the settings, the folder, the data or the weights.
        ModelError: the weights can't be had.
    """
    folder = workspace.choose_folder(settings.out, settings.resume, folder_name)
    code, found = fine_tune(experiment, corpus, settings, folder, base or base_model(settings.model))
    if code:
        return code
    print_results(found)
    print(f"results, figures, relaxed structures and tuned models: {folder}")
    return 0


def fine_tune(
    experiment: str, corpus: Corpus, settings: FineTuningSettings, folder: Path, base: BaseModel
) -> tuple[int, dict[str, Any]]:
    """What `run` does, in a folder that was chosen, without printing what it found.

    Args:
        experiment: what results call it.
        corpus: relaxations and their split.
        settings: everything else.
        folder: of this run.
        base: what to start from.

    Returns:
        exit code, and what results.json holds: nothing where it was interrupted.

    Raises:
        InputError: anything about the settings, the folder or the data.
    """
    check(corpus, settings, base)
    config = settings.resolved() | {"data_sha256": corpus.sha256, "params_sha256": base.sha256}
    with opened(folder, config, settings.resume) as session:
        try:
            return 0, _Pipeline(session, corpus, settings, base).run(experiment)
        except Interrupted:
            session.save_timing()
            session.reporter.note(
                f"interrupted; everything so far is in {folder}. Go on with the same command and --resume"
            )
            return 128 + (session.stop.number or 2), {}


def check(corpus: Corpus, settings: FineTuningSettings, base: BaseModel) -> None:
    """Refuse what can't be tuned, before anything exists.

    Raises:
        InputError: an element the model doesn't cover, a cell that it or the adjoint can't relax, or parameters to
            train that it doesn't have.
    """
    casing.check_elements(corpus.used, base.potential.elements)
    casing.check_cells(corpus.used, base.potential, settings.bptt.adjoint)
    chosen = settings.parameters
    trainable(base.params, freeze=chosen.freeze, train_only=chosen.train_only)


class _Pipeline:
    """The stages of one run over one corpus."""

    def __init__(self, session: Session, corpus: Corpus, settings: FineTuningSettings, base: BaseModel):
        self.session, self.corpus, self.settings, self.base = session, corpus, settings, base
        self.potential = potential = base.potential
        self.rule = make_rule(settings.relaxation)
        self.pretrained = Theta(base.params, self.rule.hyper)
        self.held_out = corpus.select(corpus.held_out)
        self.relaxation = relax.relaxation(
            potential, self.rule, force_tolerance=settings.relaxation.force_tolerance
        )
        split, relaxations = corpus.split, corpus.used
        self.session.reporter.note(
            f"{base.name} on {corpus.name}: {len(split.train)} relaxations to train on, "
            f"{len(split.validation)} to validate, {len(split.test)} to test, {len(split.unseen)} of unseen kinds; "
            f"{jax.default_backend()}"
        )
        self.cell_relaxation = None
        if moving := sum(map(changes_cell, relaxations)):
            self.session.reporter.note(
                f"the cell is relaxed too in {moving} of {len(relaxations)} relaxations"
            )
            self.cell_relaxation = make_cell_relaxation(potential, self.rule, settings.relaxation)
        self.cases = casing.make_cases(
            relaxations, potential.graph, settings.relaxation.skin, potential.elements
        )
        self.ruler = Ruler(
            self.cases,
            corpus.select([*split.validation, *corpus.held_out]),
            potential,
            self.relaxation,
            settings.relaxation.test_steps,
            self.cell_relaxation,
        )
        train = corpus.select(split.train)
        programs = make_programs(settings, potential, base.params, self.rule, train)
        self.bench = make_bench(corpus, settings, programs, self.cases, self.ruler)
        self.bench.on_event, self.bench.should_stop = session.event, session.stop

    def run(self, experiment: str) -> dict:
        """Everything, in order; returns what results.json holds."""
        session, settings = self.session, self.settings
        session.reporter.begin("step size against the stiffest training structure")
        steadiness = check_step_size(
            self.potential, self.rule, self.pretrained, map(self.cases.pair, self.bench.train)
        )
        session.reporter.end()
        (session.reporter.note if steadiness.stable else session.reporter.warn)(steadiness.sentence)
        plan = self._memory_plan()
        if not self.bench.has_forces:
            session.reporter.note("no forces in the training data: BPTT alone, without force matching")

        runs: Runs = {"pretrained": [self._measure(self.pretrained, "pretrained", session.folder)]}
        forgotten: dict[str, list[dict]] = {}
        models: dict[str, Theta] = {}
        training_s: dict[str, list[float]] = {}
        seeds = range(settings.seed, settings.seed + settings.num_seeds)
        for seed in seeds:
            session.metrics.context["seed"] = seed
            folder = session.folder / f"seed{seed}"
            trained, stages = self._train(seed, folder)
            models = {"pretrained": self.pretrained} | trained
            for stage, result in stages.items():
                training_s.setdefault(stage, []).append(round(result.progress.seconds, 1))
            for stage, theta in list(models.items())[1:]:
                runs.setdefault(stage, []).append(self._measure(theta, stage, folder, f" seed {seed}"))
                self.base.save(folder / f"{stage}.safetensors", theta.potential)
                if self.check is not None:
                    changed = recorded.forgetting(session, self.check, theta, folder, stage)
                    forgotten.setdefault(stage, []).append(changed)
            structures.write(self.held_out, runs, folder)

        found = {
            "schema": 1,
            "experiment": experiment,
            "preset": settings.resolved().get("preset"),
            "config": settings.resolved(),
            "dataset": {"name": self.corpus.name, "sha256": self.corpus.sha256}
            | {part: list(names) for part, names in zip(results.PARTS, self.corpus.split, strict=True)},
            "seeds": list(seeds),
            "base_model": results.base_model(self.base.name, self.base.about),
            "models": {self.base.name: results.blocks(self.corpus, runs)},
            "training_s": training_s,
            "timing_s": {phase: round(seconds, 1) for phase, seconds in session.timing.items()},
            "peak_rss_mb": round(peak_rss_mb()),
            "environment": environment(),
            "stability": steadiness._asdict(),
            "memory": plan,
        }
        if self.check is not None and forgotten:
            stages = {stage: over_seeds(each) for stage, each in forgotten.items()}
            found["forgetting"] = {"probe": self.check.describe(), "stages": stages}
        paths = self._follow(models, found["models"][self.base.name])
        processes.write_json(session.folder / "path.json", paths)
        processes.write_json(session.folder / workspace.RESULTS, found)
        write_model_cards(session.folder, found)
        figures.draw(session.folder, found, paths, structures.displacements(self.held_out, runs))
        return found

    @cached_property
    def check(self) -> Check | None:
        """Compares tuned models with the pretrained one; None where that is not wanted, or no crystal is covered."""
        if not self.settings.forgetting:
            return None
        reporter = self.session.reporter
        reporter.begin("what the pretrained model says about other chemistry")
        params = self.pretrained.potential
        check = self.session.timed(
            "forgetting", lambda: Check(self.potential, params, self.base.about, self.bench.train)
        )
        if check.crystals:
            return check
        reporter.note("no forgetting check: the model covers no crystal of other chemistry in the probe set")
        return None

    def _memory_plan(self) -> dict | None:
        """How BPTT fits into the memory budget, said in one line and for results.json; None without a budget."""
        reporter = self.session.reporter
        if self.bench.memory_budget is None:
            return None
        reporter.begin("memory of a gradient")
        plan = self.bench.memory_plan
        assert plan is not None
        reporter.end()
        (reporter.note if plan.fits else reporter.warn)(plan.sentence)
        return {
            "budget_bytes": self.bench.memory_budget,
            "adjoint": str(plan.adjoint),
            "temporary_bytes": plan.temporary_bytes,
            "fits": plan.fits,
        }

    def _train(self, seed: int, folder: Path) -> tuple[dict[str, Theta], dict[str, StageResult]]:
        """Force matching and BPTT, then force matching again until both had the same time: the control.

        Returns:
            what is measured, the control as ``force_matching``; and what each stage left behind.
        """
        bench, settings, session = self.bench, self.settings, self.session
        stages: dict[str, StageResult] = {}
        matched = None
        if bench.has_forces:
            matching = bench.force_matching_stage(
                settings.force_matching, seed, epochs=settings.force_matching.epochs
            )
            num_updates = matching.epochs * bench.num_force_batches(settings.force_matching)
            session.reporter.begin(f"seed {seed}: force matching", num_updates)
            stages["force_matching"] = matched = session.timed(
                "force_matching", lambda: bench.fit(matching, self.pretrained, folder / "force_matching")
            )

        after_matching = settings.bptt.start_from == "force_matching"
        start = matched.theta if matched is not None and after_matching else self.pretrained
        bptt = bench.bptt_stage(settings.bptt, seed)
        session.reporter.begin(f"seed {seed}: BPTT", settings.bptt.epochs * len(bench.train))
        stages["bptt"] = tuned = session.timed("bptt", lambda: bench.fit(bptt, start, folder / "bptt"))
        if matched is None:
            return {"bptt": tuned.theta}, stages

        # Equal compute: what led to BPTT plus BPTT itself, against force matching all the way.
        seconds = tuned.progress.seconds - (0.0 if after_matching else matched.progress.seconds)
        if seconds <= 0:
            return {"force_matching": matched.theta, "bptt": tuned.theta}, stages
        per_epoch = max(matched.progress.seconds / max(matched.progress.epoch, 1), 0.1)
        control = bench.force_matching_stage(
            settings.force_matching,
            seed + 1_000_000,
            name="control",
            epochs=max(1, math.ceil(seconds / per_epoch)),
            seconds=seconds,
        )
        session.reporter.begin(
            f"seed {seed}: force matching until it had the time of BPTT", None, seconds=seconds
        )
        stages["control"] = controlled = session.timed(
            "control", lambda: bench.fit(control, matched.theta, folder / "control")
        )
        return {"force_matching": controlled.theta, "bptt": tuned.theta}, stages

    def _measure(self, theta: Theta, stage: str, folder: Path, suffix: str = "") -> dict[str, Measurement]:
        title = f"{stage.replace('_', ' ')}{suffix}: relaxing held-out structures"
        return recorded.measure(self.session, self.ruler, theta, self.corpus.held_out, folder, stage, title)

    def _follow(self, models: dict[str, Theta], blocks: dict) -> dict:
        """Follow the relaxation of one test structure: the one whose pretrained error is the median."""
        before = blocks["pretrained"]["delta_q"]["per_structure"]
        name = sorted(before, key=before.get)[len(before) // 2]
        pair = self.cases.pair(self.corpus.select([name])[0])
        relaxation = self.relaxation if pair.relaxed_cell is None else self.cell_relaxation
        assert relaxation is not None
        follow = path_recorder(relaxation, self.settings.relaxation.test_steps)
        return {"name": name, "stages": {stage: follow(theta, pair) for stage, theta in models.items()}}
