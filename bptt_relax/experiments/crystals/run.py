"""The bundled crystals, split by crystal, relaxed with free and with given cells; and what a constant pressure does."""

from collections.abc import Sequence

import numpy as np

from bptt_relax import datasets
from bptt_relax.experiments.crystals import figures
from bptt_relax.experiments.crystals.config import CrystalsConfig, DataSettings
from bptt_relax.experiments.silicon.run import limit
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.measurement import summarize
from bptt_relax.finetuning.preparation import ionic_steps
from bptt_relax.finetuning.run import fine_tune
from bptt_relax.finetuning.trainer import Trainer
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.report.tables import print_results as show
from bptt_relax.runs import folder as folders
from bptt_relax.runs.session import Finished, Found
from bptt_relax.training import frame_errors
from bptt_relax.units import EV_PER_A3_IN_GPA

__all__ = ["constant_pressure", "make_corpus", "run", "show"]


def run(config: CrystalsConfig) -> Finished:
    """Do the whole experiment.

    Args:
        config: settings.

    Raises:
        InputError, ModelError, Interrupted: see `finetuning.run.fine_tune`.
    """
    folder = folders.choose(config.out, config.resume, f"crystals-{config.preset}")
    corpus = make_corpus(config.data)
    if config.data.cells == "given":
        return fine_tune("crystals", corpus, config, folder)
    finished = fine_tune("crystals", corpus, config, folder, also=constant_pressure)
    figures.draw(folder, finished.results)
    return finished


def make_corpus(settings: DataSettings) -> Corpus:
    """The relaxations that the settings ask for, with their split."""
    data = datasets.load("crystals")
    free = [r for r in data.relaxations if changes_cell(r)]
    given = datasets.crystals.in_given_cells(data.relaxations)
    chosen = {"both": [*free, *given], "free": free, "given": given}[settings.cells]
    split = limit(datasets.crystals.split(chosen, fold=settings.fold), settings)
    return Corpus(data.name, data.sha256, chosen, split)


def constant_pressure(trainer: Trainer) -> Found:
    """The pretrained model under the pressure that it has, on average, at the DFT structures of the training crystals.

    Two levels of theory may differ by little more than that: one number, and nothing to be trained. What is gained
    beyond it is not an offset.

    Args:
        trainer: of a corpus with relaxations whose cell is free.
    """
    preparation, split = trainer.preparation, trainer.corpus.split
    train = _free(trainer.train)
    frames = [preparation.frame(ionic_steps(r)[-1]) for r in train]
    predictions = trainer.predict(trainer.base.params, [(f.positions, f.system) for f in frames])
    found = np.array([frame_errors(*each).pressure for each in zip(predictions, frames, strict=True)])
    found += [0.0 if r.stresses is None else np.trace(r.stresses[-1]) / 3.0 for r in train]
    pressure = float(found.mean())
    measured = trainer.measure(
        trainer.start(),
        trainer.session.folder,
        "constant_pressure",
        "pretrained at constant pressure: relaxing test crystals",
        names=[r.name for r in _free(trainer.corpus.select(split.test))],
        evaluator=trainer.evaluator(pressure=pressure),
    )
    return {
        "constant_pressure": {
            "pressure_GPa": EV_PER_A3_IN_GPA * pressure,
            "std_over_training_crystals_GPa": EV_PER_A3_IN_GPA * float(found.std()),
            "test": summarize([measured]),
        }
    }


def _free(relaxations: Sequence[Relaxation]) -> list[Relaxation]:
    """Those whose cell is relaxed too."""
    return [r for r in relaxations if changes_cell(r)]
