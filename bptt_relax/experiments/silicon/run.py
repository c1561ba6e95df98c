"""Pretrained -> force matching -> BPTT on silicon defects, with force matching of equal time as the control."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from bptt_relax import datasets, relax
from bptt_relax.experiments import _cases, _compilation, _statistics, _workspace
from bptt_relax.experiments._measure import (
    Measurement,
    Ruler,
    from_json,
    path_recorder,
    summarize,
    to_json,
)
from bptt_relax.experiments._stages import STAGES, Bench, check_step_size, make_rule
from bptt_relax.experiments.silicon import figures
from bptt_relax.experiments.silicon.config import DataSettings, SiliconConfig
from bptt_relax.io import write_relaxations
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.io.splits import Split
from bptt_relax.potentials import pretrained
from bptt_relax.relax import Theta
from bptt_relax.report.environment import environment, peak_rss_mb
from bptt_relax.report.metrics import MetricsFile
from bptt_relax.report.progress import Reporter
from bptt_relax.report.tables import print_results
from bptt_relax.training import Interrupted

Runs = dict[str, list[dict[str, Measurement]]]
"""Stage -> one measurement of every held-out structure per seed."""


@dataclass
class Session:
    """What a run needs everywhere.

    Attributes:
        config: settings.
        folder: where everything is written.
        reporter: shows progress.
        metrics: takes every event.
        stop: asked whether to stop.
        timing: seconds by phase, summed over interruptions.
    """

    config: SiliconConfig
    folder: Path
    reporter: Reporter
    metrics: MetricsFile
    stop: _workspace.StopSignal
    timing: dict[str, float] = field(default_factory=dict)

    def event(self, event: dict) -> None:
        """Write an event of the training loop down and show it."""
        self.metrics.write(event)
        self.reporter.event(event)


def run(config: SiliconConfig) -> int:
    """Do the whole experiment.

    Args:
        config: settings.

    Returns:
        exit code: 0, or 128 + the signal that interrupted it.

    Raises:
        InputError: anything about the settings, the folder, the data or the weights' name.
        ModelError: the weights are broken.
    """
    _compilation.keep_compiled_programs()
    folder = _workspace.choose_folder(config.out, config.resume, f"silicon-{config.preset}")
    data = datasets.load("silicon-defects")
    split = limit(datasets.silicon.split(data.relaxations), config.data)
    potential, params = pretrained.load(config.model)
    used = data.select([*split.train, *split.validation, *split.test, *split.unseen])
    _cases.check_elements(used, potential.elements)
    with (
        _workspace.locked(folder),
        _workspace.StopSignal().listening() as stop,
        MetricsFile(folder / _workspace.METRICS) as metrics,
        Reporter() as reporter,
    ):
        _workspace.record_config(folder, config.resolved(), config.resume)
        session = Session(config, folder, reporter, metrics, stop, _read_timing(folder))
        try:
            results = _experiment(session, data, split, potential, params)
        except Interrupted:
            _workspace.write_json(folder / "timing.json", session.timing)
            reporter.note(
                f"interrupted; everything so far is in {folder}. Go on with the same command and --resume"
            )
            return 128 + (stop.number or 2)
    print_results(results)
    print(f"results, figures, relaxed structures and tuned models: {folder}")
    return 0


def limit(split: Split, settings: DataSettings) -> Split:
    """Use only the first structures of each part, where the settings say so."""
    train = split.train[: settings.train_limit or None]
    held_out = (part[: settings.evaluate_limit or None] for part in split[1:])
    return Split(train, *held_out)


def _experiment(session: Session, data, split: Split, potential, params) -> dict:
    config, reporter = session.config, session.reporter
    rule = make_rule(config.relaxation)
    theta = Theta(params, rule.hyper)
    held_out = [*split.test, *split.unseen]
    relaxations = data.select([*split.train, *split.validation, *held_out])
    reporter.note(
        f"{config.model} on {data.name}: {len(split.train)} relaxations to train on, {len(split.validation)} to "
        f"validate, {len(split.test)} to test, {len(split.unseen)} of unseen kinds; {jax.default_backend()}"
    )
    cases = _cases.make_cases(relaxations, potential.graph, config.relaxation.skin, potential.elements)
    tested = relax.relaxation(potential, rule, force_tolerance=config.relaxation.force_tolerance)
    ruler = Ruler(
        cases,
        data.select([*split.validation, *held_out]),
        potential,
        tested,
        config.relaxation.test_steps,
    )
    learn_rule = jax.tree.map(lambda _: config.bptt.learn_rule, rule.hyper)
    bench = Bench(
        potential=potential,
        trainable=Theta(pretrained.trainable(params), learn_rule),
        rule=rule,
        cases=cases,
        ruler=ruler,
        train=data.select(split.train),
        validation=split.validation,
        on_event=session.event,
        should_stop=session.stop,
        train_steps=config.relaxation.train_steps,
        huber_delta=config.force_matching.huber_delta,
        anchor=theta,
        anchor_weight=config.bptt.anchor_weight,
        softening=config.bptt.softening,
        force_weight=config.bptt.force_weight,
    )

    reporter.begin("step size against the stiffest training structure")
    steadiness = check_step_size(potential, rule, theta, map(cases.pair, bench.train))
    reporter.end()
    (reporter.note if steadiness.stable else reporter.warn)(steadiness.sentence)

    runs: Runs = {stage: [] for stage in STAGES}
    runs["pretrained"].append(_measure(session, ruler, theta, held_out, "pretrained", session.folder))
    models: dict[str, Theta] = {"pretrained": theta}
    for seed in range(config.seed, config.seed + config.num_seeds):
        session.metrics.context["seed"] = seed
        folder = session.folder / f"seed{seed}"
        tuned = _train(session, bench, theta, seed, folder)
        for stage, model in tuned.items():
            runs[stage].append(_measure(session, ruler, model, held_out, stage, folder, f" seed {seed}"))
            pretrained.save(folder / f"{stage}.safetensors", config.model, model.potential)
        models = {"pretrained": theta} | tuned
        _write_structures(data, runs, folder)

    results = _results(session, data, split, runs) | {"stability": steadiness._asdict()}
    paths = _follow(session, tested, cases, data, results, models)
    _workspace.write_json(session.folder / "path.json", paths)
    _workspace.write_json(session.folder / _workspace.RESULTS, results)
    figures.draw(session.folder, results, paths, displacements(data, runs))
    return results


def _train(session: Session, bench: Bench, theta: Theta, seed: int, folder: Path) -> dict[str, Theta]:
    """Force matching and BPTT, then force matching again until both had the same time: the control."""
    config, reporter = session.config, session.reporter
    matching = bench.force_matching_stage(config.force_matching, seed, epochs=config.force_matching.epochs)
    num_updates = matching.epochs * bench.num_force_batches(config.force_matching)
    reporter.begin(f"seed {seed}: force matching", num_updates)
    matched = _timed(session, "force_matching", lambda: bench.fit(matching, theta, folder / "force_matching"))

    start = matched.theta if config.bptt.start_from == "force_matching" else theta
    bptt = bench.bptt_stage(config.bptt, seed)
    reporter.begin(f"seed {seed}: BPTT", config.bptt.epochs * len(bench.train))
    tuned = _timed(session, "bptt", lambda: bench.fit(bptt, start, folder / "bptt"))

    # Equal compute: what led to BPTT plus BPTT itself, against force matching all the way.
    spent = matched.progress.seconds if config.bptt.start_from == "pretrained" else 0.0
    seconds = tuned.progress.seconds - spent
    if seconds <= 0:
        return {"force_matching": matched.theta, "bptt": tuned.theta}
    per_epoch = max(matched.progress.seconds / max(matched.progress.epoch, 1), 0.1)
    control = bench.force_matching_stage(
        config.force_matching,
        seed + 1_000_000,
        name="control",
        epochs=max(1, math.ceil(seconds / per_epoch)),
        seconds=seconds,
    )
    reporter.begin(f"seed {seed}: force matching until it had the time of BPTT", None, seconds=seconds)
    controlled = _timed(session, "control", lambda: bench.fit(control, matched.theta, folder / "control"))
    return {"force_matching": controlled.theta, "bptt": tuned.theta}


def _timed(session: Session, phase: str, work):
    start = time.perf_counter()
    try:
        return work()
    finally:
        session.reporter.end()
        session.timing[phase] = session.timing.get(phase, 0.0) + time.perf_counter() - start


def _measure(
    session: Session,
    ruler: Ruler,
    theta: Theta,
    names: Sequence[str],
    stage: str,
    folder: Path,
    suffix: str = "",
) -> dict[str, Measurement]:
    """Measure a stage, or read what an interrupted run measured already."""
    path = folder / f"{stage}.json"
    if path.is_file():
        return from_json(json.loads(path.read_text()))
    session.reporter.begin(f"{stage.replace('_', ' ')}{suffix}: relaxing held-out structures", len(names))

    def on_structure(name: str, relaxed) -> None:
        session.reporter.advance(structure=name, delta_q=relaxed.delta_q)
        session.metrics.write(
            {"event": "structure", "stage": stage, "structure": name, "delta_q": relaxed.delta_q}
        )
        if session.stop():
            raise Interrupted(stage)

    measured = _timed(session, "evaluation", lambda: ruler.measure(theta, names, on_structure))
    folder.mkdir(parents=True, exist_ok=True)
    _workspace.write_json(path, to_json(measured))
    return measured


def _results(session: Session, data, split: Split, runs: Runs) -> dict:
    """The numbers of results.json."""
    config = session.config
    model: dict = {}
    for part, names in (("test", split.test), ("unseen", split.unseen)):
        if not names:
            continue
        chosen = {stage: [{n: run[n] for n in names} for run in runs[stage]] for stage in STAGES}
        block: dict = {stage: summarize(chosen[stage]) for stage in STAGES}
        block["reduction"] = compare(block)
        if part == "test":
            model |= block
        else:
            model["unseen"] = block
    return {
        "schema": 1,
        "experiment": "silicon",
        "preset": config.preset,
        "config": config.resolved(),
        "dataset": {"name": data.name, "sha256": data.sha256}
        | {
            part: list(names)
            for part, names in zip(("train", "validation", "test", "unseen_kinds"), split, strict=True)
        },
        "seeds": list(range(config.seed, config.seed + config.num_seeds)),
        "models": {config.model: model},
        "timing_s": {phase: round(seconds, 1) for phase, seconds in session.timing.items()},
        "peak_rss_mb": round(peak_rss_mb()),
        "environment": environment(),
    }


def compare(block: dict) -> dict:
    """Reductions of Delta Q between stages, as fractions of the mean over structures."""
    before, control, after = (block[stage]["delta_q"] for stage in STAGES)
    return {
        "bptt_vs_pretrained": _statistics.reduction(before["mean"], after["mean"]),
        "ci95": list(_statistics.reduction_interval(before["per_seed"], after["per_seed"])),
        "bptt_vs_force_matching": _statistics.reduction(control["mean"], after["mean"]),
        "bptt_vs_force_matching_ci95": list(
            _statistics.reduction_interval(control["per_seed"], after["per_seed"])
        ),
        "force_matching_vs_pretrained": _statistics.reduction(before["mean"], control["mean"]),
        "geometric_mean": _statistics.reduction(before["geometric_mean"], after["geometric_mean"]),
    }


def _follow(session: Session, tested, cases, data, results: dict, models: dict[str, Theta]) -> dict:
    """Follow the relaxation of one test structure: the one whose pretrained error is the median."""
    before = results["models"][session.config.model]["pretrained"]["delta_q"]["per_structure"]
    name = sorted(before, key=before.get)[len(before) // 2]
    follow = path_recorder(tested, session.config.relaxation.test_steps)
    pair = cases.pair(data.select([name])[0])
    return {"name": name, "stages": {stage: follow(theta, pair) for stage, theta in models.items()}}


def displacements(data, runs: Runs) -> list[dict]:
    """How far each atom ends from its place in the reference, and how far it is from the defect."""
    entries = []
    for name in sorted(runs["pretrained"][0]):
        relaxation = data.select([name])[0]
        entry = {
            "name": name,
            "distance": distance_from_defect(relaxation).tolist(),
            "reference": _deviation(relaxation.initial.positions, relaxation).tolist(),
        }
        for stage, measured in runs.items():
            ends = [run[name].relaxed.positions[: len(relaxation.relaxed.species)] for run in measured]
            entry[stage] = np.mean([_deviation(end, relaxation) for end in ends], axis=0).tolist()
        entries.append(entry)
    return entries


def _deviation(positions: np.ndarray, relaxation: Relaxation) -> np.ndarray:
    cell = relaxation.relaxed.cell
    d = positions - relaxation.relaxed.positions
    d = d - np.rint(d @ np.linalg.inv(cell)) @ cell
    return np.linalg.norm(d - d.mean(axis=0), axis=1)


def distance_from_defect(relaxation: Relaxation) -> np.ndarray:
    """Distance of each atom of the relaxed structure from the defect, angstrom.

    The defect's center is where the reference relaxation moved atoms most: the mean position weighted by the
    squared displacement, built around the atom that moved furthest.
    """
    relaxed, cell = relaxation.relaxed, relaxation.relaxed.cell
    moved = relaxed.positions - relaxation.initial.positions
    weight = np.sum((moved - moved.mean(axis=0)) ** 2, axis=1)
    around = relaxed.positions - relaxed.positions[weight.argmax()]
    around = around - np.rint(around @ np.linalg.inv(cell)) @ cell
    offset = around - np.average(around, axis=0, weights=weight**2)
    offset = offset - np.rint(offset @ np.linalg.inv(cell)) @ cell
    return np.linalg.norm(offset, axis=1)


def _write_structures(data, runs: Runs, folder: Path) -> None:
    """Relaxed structures of every stage, for any viewer."""
    for stage, measured in runs.items():
        ends = []
        for name, m in measured[-1].items():
            relaxation = data.select([name])[0]
            relaxed = relaxation.relaxed._replace(
                positions=m.relaxed.positions[: len(relaxation.relaxed.species)]
            )
            ends.append(
                Relaxation(name, relaxation.group, relaxation.kind, (relaxed,), converged=m.relaxed.converged)
            )
        write_relaxations(folder / f"{stage}.extxyz", ends)


def _read_timing(folder: Path) -> dict[str, float]:
    path = folder / "timing.json"
    return json.loads(path.read_text()) if path.is_file() else {}
