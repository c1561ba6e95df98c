"""Every remedy through the same two stages on the same defects, measured on held-out defects and other chemistry."""

from pathlib import Path
from typing import Any

from bptt_relax import compilation, datasets, processes, relax
from bptt_relax.experiments.forgetting import figures
from bptt_relax.experiments.forgetting.config import VARIANTS, DataSettings, ForgettingConfig
from bptt_relax.finetuning import cases as casing
from bptt_relax.finetuning import recorded, results, workspace
from bptt_relax.finetuning.bench import make_bench
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.forgetting import Check
from bptt_relax.finetuning.measure import Measurement, Ruler, summarize
from bptt_relax.finetuning.session import Session, opened
from bptt_relax.finetuning.stages import make_rule
from bptt_relax.io.splits import Split
from bptt_relax.potentials import pretrained
from bptt_relax.relax import Theta
from bptt_relax.report.environment import environment, peak_rss_mb
from bptt_relax.report.tables import print_grids
from bptt_relax.training import Interrupted


def run(config: ForgettingConfig) -> int:
    """Do the whole experiment.

    Args:
        config: settings.

    Returns:
        exit code: 0, or 128 + the signal that interrupted it.

    Raises:
        InputError: anything about the settings, the folder or the weights.
        ModelError: the weights can't be had.
    """
    compilation.keep_compiled_programs()
    folder = workspace.choose_folder(config.out, config.resume, f"forgetting-{config.preset}")
    data = datasets.load("silicon-defects")
    corpus = Corpus(
        data.name,
        data.sha256,
        data.relaxations,
        limit(datasets.silicon.split(data.relaxations), config.data),
    )
    with opened(folder, config.resolved() | {"data_sha256": corpus.sha256}, config.resume) as session:
        try:
            found = _Comparison(session, corpus, config).run()
        except Interrupted:
            session.save_timing()
            session.reporter.note(
                f"interrupted; everything so far is in {folder}. Go on with the same command and --resume"
            )
            return 128 + (session.stop.number or 2)
    print_grids([figures.table(found)])
    print(f"results, figure and tuned models: {folder}")
    return 0


def limit(split: Split, settings: DataSettings) -> Split:
    """The first relaxations of each part."""
    sizes = (settings.train, settings.validation, settings.test, settings.test)
    return Split(*(part[:size] for part, size in zip(split, sizes, strict=True)))


class _Comparison:
    """What all variants share: data, programs, the pretrained model's measurements."""

    def __init__(self, session: Session, corpus: Corpus, config: ForgettingConfig):
        self.session, self.corpus, self.config = session, corpus, config
        self.potential, params = pretrained.load(config.model)
        self.rule = make_rule(config.relaxation)
        self.pretrained = Theta(params, self.rule.hyper)
        self.cases = casing.make_cases(
            corpus.used, self.potential.graph, config.relaxation.skin, self.potential.elements
        )
        measured = [*corpus.split.validation, *corpus.held_out]
        relaxation = relax.relaxation(
            self.potential, self.rule, force_tolerance=config.relaxation.force_tolerance
        )
        self.ruler = Ruler(
            self.cases, corpus.select(measured), self.potential, relaxation, config.relaxation.test_steps
        )

    def run(self) -> dict[str, Any]:
        """Every variant in turn; returns what results.json holds."""
        session, config = self.session, self.config
        model = pretrained.about(config.model)
        train = self.corpus.select(self.corpus.split.train)
        session.reporter.begin("what the pretrained model says about other chemistry")
        check = Check(self.potential, self.pretrained.potential, model, train)
        before = self._measure(self.pretrained, "pretrained", session.folder)
        variants = {
            name: self._variant(name, check, session.folder / name) for name in dict.fromkeys(config.variants)
        }
        parts = zip(results.PARTS, self.corpus.split, strict=True)
        found = {
            "schema": 1,
            "experiment": "forgetting",
            "preset": config.preset,
            "config": config.resolved(),
            "dataset": {"name": self.corpus.name, "sha256": self.corpus.sha256}
            | {part: list(names) for part, names in parts},
            "base_model": results.base_model(config.model, model),
            "probe": check.describe(),
            "pretrained": self._parts(before),
            "variants": variants,
            "timing_s": {phase: round(seconds, 1) for phase, seconds in session.timing.items()},
            "peak_rss_mb": round(peak_rss_mb()),
            "environment": environment(),
        }
        processes.write_json(session.folder / workspace.RESULTS, found)
        figures.draw(session.folder, found)
        return found

    def _variant(self, name: str, check: Check, folder: Path) -> dict[str, Any]:
        """Force matching, then BPTT, with one remedy; the best model on the validation structures counts."""
        session, settings, variant = self.session, self.config.with_remedy(name), VARIANTS[name]
        session.metrics.context["variant"] = name
        bench = make_bench(
            self.corpus,
            settings,
            self.potential,
            self.pretrained.potential,
            self.rule,
            self.cases,
            self.ruler,
        )
        bench.on_event, bench.should_stop = session.event, session.stop
        epochs = settings.force_matching.epochs
        matching = bench.force_matching_stage(settings.force_matching, settings.seed, epochs=epochs)
        session.reporter.begin(
            f"{variant.label}: force matching", epochs * bench.num_force_batches(settings.force_matching)
        )
        matched = session.timed(
            "training", lambda: bench.fit(matching, self.pretrained, folder / "force_matching")
        )
        session.reporter.begin(f"{variant.label}: BPTT", settings.bptt.epochs * len(bench.train))
        tuned = session.timed(
            "training",
            lambda: bench.fit(bench.bptt_stage(settings.bptt, settings.seed), matched.theta, folder / "bptt"),
        )
        pretrained.save(folder / "bptt.safetensors", self.config.model, tuned.theta.potential)
        measured = self._measure(tuned.theta, variant.label, folder)
        return {
            "label": variant.label,
            "remedy": variant.remedy,
            "changes": variant.changes,
            "validation": {"force_matching": matched.progress.score, "bptt": tuned.progress.score},
            "best_epoch": {"force_matching": matched.progress.best_epoch, "bptt": tuned.progress.best_epoch},
            "training_s": round(matched.progress.seconds + tuned.progress.seconds, 1),
            "forgetting": recorded.forgetting(session, check, tuned.theta, folder, "bptt"),
        } | self._parts(measured)

    def _measure(self, theta: Theta, label: str, folder: Path) -> dict[str, Measurement]:
        title = f"{label}: relaxing held-out structures"
        return recorded.measure(
            self.session, self.ruler, theta, self.corpus.held_out, folder, "held_out", title
        )

    def _parts(self, measured: dict[str, Measurement]) -> dict[str, Any]:
        split = self.corpus.split
        parts = (("test", split.test), ("unseen", split.unseen))
        return {part: summarize([{n: measured[n] for n in names}]) for part, names in parts if names}
