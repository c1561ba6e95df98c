"""Variants of fine-tuning side by side: what they share is prepared once, each is trained and measured once."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bptt_relax.finetuning import preparation, results
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.measurement import Measurement, summarize
from bptt_relax.finetuning.settings import ComparedSettings, RecipeSettings, RelaxationSettings
from bptt_relax.finetuning.trainer import Trainer
from bptt_relax.models import BaseModel, base_model
from bptt_relax.relax import Theta
from bptt_relax.runs import folder as folders
from bptt_relax.runs.session import Finished, Found, Session, opened
from bptt_relax.training import StageResult


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
    """Trains and measures variants of a recipe.

    Args:
        session: the run.
        corpus: relaxations and their split.
        settings: what variants have in common.
        base: what to start from.

    Attributes:
        trainer: of what variants have in common; `variant` makes that of one.
        pretrained: the model that all start from.
    """

    def __init__(self, session: Session, corpus: Corpus, settings: RecipeSettings, base: BaseModel):
        self.session, self.corpus, self.settings, self.base = session, corpus, settings, base
        self.trainer = Trainer(session, corpus, settings, base)
        self.potential, self.pretrained = base.potential, self.trainer.start()

    def variant(self, settings: RecipeSettings, corpus: Corpus | None = None) -> Trainer:
        """The trainer of a variant, which shares what it can with all others."""
        return self.trainer.variant(settings, corpus)

    def match_forces(
        self,
        settings: RecipeSettings,
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
            seconds: of training time instead of the epochs of ``settings``, see `training.Stage`.
        """
        how = self.variant(settings, corpus).force_matching(seconds)
        return self.variant(self.settings, corpus).match_forces(how, f"{label}: force matching")

    def train(
        self,
        name: str,
        settings: RecipeSettings,
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
            seconds: of training time for BPTT instead of its epochs, see `training.Stage`.
        """
        self.session.metrics.context["variant"] = name
        trainer, folder = self.variant(settings, corpus), self.session.folder / name
        stages: dict[str, StageResult] = {}
        start = trainer.start()
        after_matching = settings.bptt.start_from == "force_matching" and settings.force_matching.epochs
        if after_matching and trainer.has_forces:
            stages["force_matching"] = matched = self.match_forces(settings, label, corpus)
            start = start._replace(potential=matched.theta.potential)
        stages["bptt"] = trainer.bptt(start, folder / "bptt", f"{label}: BPTT", seconds=seconds)
        tuned = Tuned(stages["bptt"].theta, stages)
        self.base.save(folder / "bptt.safetensors", tuned.theta.potential)
        return tuned

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
        return self.trainer.measure(
            theta,
            self.session.folder / name,
            kept_as,
            f"{label}: relaxing held-out structures",
            evaluator=self.trainer.evaluator(relaxation),
        )

    def parts(self, runs: Sequence[dict[str, Measurement]]) -> Found:
        """Numbers on the test structures and on unseen kinds, over seeds."""
        split = self.corpus.split
        parts = (("test", split.test), ("unseen", split.unseen))
        return {
            part: summarize([{n: run[n] for n in names} for run in runs]) for part, names in parts if names
        }


def compare(
    experiment: str,
    corpus: Corpus,
    settings: ComparedSettings,
    work: Callable[[Comparison], Found],
    draw: Callable[[Path, Found], None],
) -> Finished:
    """Run an experiment that compares variants, in a folder of its own, resumably.

    Args:
        experiment: what results call it.
        corpus: relaxations and their split.
        settings: what variants have in common, and whatever the experiment adds.
        work: the experiment itself; what it returns goes into results.json.
        draw: (folder, results) -> figures in that folder.

    Raises:
        InputError: anything about the settings, the folder or the weights.
        ModelError: the weights can't be had.
        Interrupted: it was stopped; everything so far is in the folder.
    """
    folder = folders.choose(settings.out, settings.resume, f"{experiment}-{settings.preset}")
    base = base_model(settings.model)
    preparation.check_elements(corpus.used, base.potential.elements)
    config = settings.resolved()
    decisive = config | {"data_sha256": corpus.sha256, "params_sha256": base.sha256}
    with opened(folder, decisive, settings.resume) as session:
        found = work(Comparison(session, corpus, settings, base))
        about = {
            "dataset": results.dataset(corpus),
            "base_model": results.base_model(base.name, base.about),
        }
        written = session.write_results(experiment, settings.preset, config, about | found)
        draw(folder, written)
    return Finished(folder, written)
