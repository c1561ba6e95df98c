"""Variants of fine-tuning side by side: what they share is prepared once, each is trained and measured once."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bptt_relax import compilation, processes, relax
from bptt_relax.finetuning import cases as casing
from bptt_relax.finetuning import recorded, results, workspace
from bptt_relax.finetuning.bench import make_bench, make_programs
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.differentiation import choose
from bptt_relax.finetuning.measure import Measurement, Ruler, summarize
from bptt_relax.finetuning.programs import Programs
from bptt_relax.finetuning.session import Session, opened
from bptt_relax.finetuning.settings import FineTuningSettings, RelaxationSettings
from bptt_relax.finetuning.stages import Bench, make_cell_relaxation, make_rule
from bptt_relax.models import BaseModel, base_model
from bptt_relax.relax import Theta
from bptt_relax.report.environment import environment, peak_rss_mb
from bptt_relax.report.tables import Grid, print_grids
from bptt_relax.training import Interrupted, StageResult

Found = dict[str, Any]
"""What an experiment found, as results.json holds it."""

# Numbers in a rule are data: variants that differ in nothing else run the same compiled programs.
_DATA = {"step_size", "decay", "annealing"}


class Tuned(NamedTuple):
    """One model after its stages.

    Attributes:
        theta: the model, the best on the validation structures.
        stages: what each stage left behind, by name, in order.
    """

    theta: Theta
    stages: dict[str, StageResult]

    def describe(self) -> Found:
        """How training went, for results.json."""
        stages = self.stages.items()
        return {
            "validation": {name: stage.progress.score for name, stage in stages},
            "best_epoch": {name: stage.progress.best_epoch for name, stage in stages},
            "skipped": {name: sum(stage.progress.skipped.values()) for name, stage in stages},
            "training_s": round(sum(stage.progress.seconds for _, stage in stages), 1),
        }


class Comparison:
    """What all variants share: data, compiled programs, force matching where it is the same.

    Args:
        session: the run.
        corpus: relaxations and their split.
        settings: what variants have in common.
        base: what to start from; what ``settings.model`` names when not given.
    """

    def __init__(
        self, session: Session, corpus: Corpus, settings: FineTuningSettings, base: BaseModel | None = None
    ):
        self.session, self.corpus, self.settings = session, corpus, settings
        self.base = base or base_model(settings.model)
        self.potential = self.base.potential
        self.pretrained = self.start(settings.relaxation)
        self.cases = casing.make_cases(
            corpus.used, self.potential.graph, settings.relaxation.skin, self.potential.elements
        )
        self._rulers: dict[str, Ruler] = {}
        self._programs: dict[str, Programs] = {}

    def start(self, relaxation: RelaxationSettings) -> Theta:
        """The pretrained model with the rule of these settings."""
        return Theta(self.base.params, make_rule(relaxation).hyper)

    def ruler(self, relaxation: RelaxationSettings) -> Ruler:
        """Measures models by relaxing like this; takes models that have the rule of these settings."""
        no_say = _DATA if "step" in relaxation.scales else _DATA | {"train_steps"}
        key = _digest(relaxation.model_dump(exclude=no_say))
        if key not in self._rulers:
            compilation.make_room()
            measured = [*self.corpus.split.validation, *self.corpus.held_out]
            relaxer = relax.relaxation(
                self.potential, make_rule(relaxation), force_tolerance=relaxation.force_tolerance
            )
            cell_relaxer = None
            if self.cases.move_cells:
                cell_relaxer = make_cell_relaxation(self.potential, make_rule(relaxation), relaxation)
            self._rulers[key] = Ruler(
                self.cases,
                self.corpus.select(measured),
                self.potential,
                relaxer,
                relaxation.test_steps,
                cell_relaxer,
            )
        return self._rulers[key]

    def bench(self, settings: FineTuningSettings, corpus: Corpus | None = None) -> Bench:
        """What the stages of a variant share.

        Args:
            settings: of the variant.
            corpus: another one to train on, of the same layout.
        """
        corpus = corpus or self.corpus
        bench = make_bench(
            corpus,
            settings,
            self._shared_programs(settings, corpus),
            self.cases,
            self.ruler(settings.relaxation),
        )
        bench.on_event, bench.should_stop = self.session.event, self.session.stop
        return bench

    def match_forces(
        self,
        settings: FineTuningSettings,
        label: str,
        corpus: Corpus | None = None,
        seconds: float = math.inf,
    ) -> StageResult:
        """Force matching; variants that match forces alike share it.

        Args:
            settings: of the variant. Its relaxation and its BPTT have no say: validation relaxes as in what variants
                have in common.
            label: of the variant, for the progress display.
            corpus: another one to train on.
            seconds: of training time instead of the epochs of ``settings``, see `Stage`.
        """
        corpus = corpus or self.corpus
        settings = settings.model_copy(
            update={"relaxation": self.settings.relaxation, "bptt": self.settings.bptt}
        )
        decisive = settings.model_dump(
            mode="json", include={"seed", "force_matching", "parameters", "replay"}
        )
        folder = (
            self.session.folder
            / "force_matching"
            / _digest([decisive, corpus.sha256, corpus.split, str(seconds)])
        )
        bench, own = self.bench(settings, corpus), settings.force_matching
        stage = bench.force_matching_stage(own, settings.seed, epochs=own.epochs, seconds=seconds)
        num_updates = None if math.isfinite(seconds) else own.epochs * bench.num_force_batches(own)
        self.session.reporter.begin(f"{label}: force matching", num_updates, seconds=seconds)
        return self.session.timed("training", lambda: bench.fit(stage, self.pretrained, folder))

    def train(
        self,
        name: str,
        settings: FineTuningSettings,
        label: str,
        corpus: Corpus | None = None,
        seconds: float = math.inf,
    ) -> Tuned:
        """Force matching, unless BPTT starts from the pretrained model, then BPTT.

        Args:
            name: of the folder of the variant.
            settings: of the variant.
            label: of the variant, for the progress display.
            corpus: another one to train on.
            seconds: of training time for BPTT instead of its epochs, see `Stage`.
        """
        session, bench = self.session, self.bench(settings, corpus)
        session.metrics.context["variant"] = name
        stages: dict[str, StageResult] = {}
        start = self.start(settings.relaxation)
        if (
            settings.bptt.start_from == "force_matching"
            and settings.force_matching.epochs
            and bench.has_forces
        ):
            stages["force_matching"] = matched = self.match_forces(settings, label, corpus)
            start = start._replace(potential=matched.theta.potential)
        num_updates = None if math.isfinite(seconds) else settings.bptt.epochs * len(bench.train)
        session.reporter.begin(f"{label}: BPTT", num_updates, seconds=seconds)
        stage = bench.bptt_stage(settings.bptt, settings.seed, seconds=seconds)
        folder = session.folder / name
        stages["bptt"] = tuned = session.timed("training", lambda: bench.fit(stage, start, folder / "bptt"))
        self.base.save(folder / "bptt.safetensors", tuned.theta.potential)
        return Tuned(tuned.theta, stages)

    def measure(
        self,
        theta: Theta,
        name: str,
        label: str,
        relaxation: RelaxationSettings | None = None,
        kept_as: str = "held_out",
    ) -> dict[str, Measurement]:
        """Relax everything held out.

        Args:
            theta: the model, with the rule of ``relaxation``.
            name: of the folder of the variant.
            label: of the variant, for the progress display.
            relaxation: another than the one variants have in common.
            kept_as: name of the file that keeps the measurements.
        """
        ruler = self.ruler(relaxation or self.settings.relaxation)
        title = f"{label}: relaxing held-out structures"
        folder = self.session.folder / name
        return recorded.measure(self.session, ruler, theta, self.corpus.held_out, folder, kept_as, title)

    def parts(self, runs: Sequence[dict[str, Measurement]]) -> Found:
        """Numbers on the test structures and on unseen kinds, over seeds."""
        split = self.corpus.split
        parts = (("test", split.test), ("unseen", split.unseen))
        return {
            part: summarize([{n: run[n] for n in names} for run in runs]) for part, names in parts if names
        }

    def _shared_programs(self, settings: FineTuningSettings, corpus: Corpus) -> Programs:
        train = corpus.select(corpus.split.train)
        decisive = settings.model_dump(mode="json", include={"replay", "bptt"})
        bptt = {"distance", "softening", "force_weight", "anchor_weight", "cell_weight"}
        key = _digest(
            [
                settings.relaxation.model_dump(exclude=_DATA | {"test_steps", "force_tolerance"}),
                repr(choose(settings.bptt.adjoint, settings.relaxation)),
                {name: decisive["bptt"][name] for name in bptt},
                [settings.force_matching.huber_delta, settings.force_matching.stress_weight],
                settings.parameters.rank,
                # What is replayed is other chemistry than that of the training structures.
                [decisive["replay"], corpus.split.train] if settings.replay.weight else None,
                any(r.forces is not None for r in train),
            ]
        )
        if key not in self._programs:
            compilation.make_room()
            rule = make_rule(settings.relaxation)
            self._programs[key] = make_programs(settings, self.potential, self.base.params, rule, train)
        return self._programs[key]


class Drawing(NamedTuple):
    """How an experiment shows what it found.

    Attributes:
        draw: (folder, results) -> figures in that folder.
        tables: results -> what is printed.
    """

    draw: Callable[[Path, Found], None]
    tables: Callable[[Found], list[Grid]]


def compare(
    experiment: str,
    corpus: Corpus,
    settings: FineTuningSettings,
    preset: str,
    work: Callable[[Comparison], Found],
    drawing: Drawing,
) -> int:
    """Run an experiment that compares variants, in a folder of its own, resumably.

    Args:
        experiment: what results call it.
        corpus: relaxations and their split.
        settings: what variants have in common, and whatever the experiment adds.
        preset: where they started from.
        work: the experiment itself; what it returns goes into results.json.
        drawing: its figures and tables.

    Returns:
        exit code: 0, or 128 + the signal that interrupted it.

    Raises:
        InputError: anything about the settings, the folder or the weights.
        ModelError: the weights can't be had.
    """
    folder = workspace.choose_folder(settings.out, settings.resume, f"{experiment}-{preset}")
    base = base_model(settings.model)
    casing.check_elements(corpus.used, base.potential.elements)
    config = settings.resolved()
    decisive = config | {"data_sha256": corpus.sha256, "params_sha256": base.sha256}
    with opened(folder, decisive, settings.resume) as session:
        try:
            comparison = Comparison(session, corpus, settings, base)
            found = work(comparison)
        except Interrupted:
            session.save_timing()
            session.reporter.note(
                f"interrupted; everything so far is in {folder}. Go on with the same command and --resume"
            )
            return 128 + (session.stop.number or 2)
        found = {
            "schema": 1,
            "experiment": experiment,
            "preset": preset,
            "config": config,
            "dataset": {"name": corpus.name, "sha256": corpus.sha256}
            | {part: list(names) for part, names in zip(results.PARTS, corpus.split, strict=True)},
            "base_model": results.base_model(base.name, base.about),
            **found,
            "timing_s": {phase: round(seconds, 1) for phase, seconds in session.timing.items()},
            "peak_rss_mb": round(peak_rss_mb()),
            "environment": environment(),
        }
        processes.write_json(folder / workspace.RESULTS, found)
        drawing.draw(folder, found)
    print_grids(drawing.tables(found))
    print(f"results, figures and tuned models: {folder}")
    return 0


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
