"""The bundled crystals, split by crystal, relaxed with free and with given cells; and what a constant pressure does."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bptt_relax import compilation, datasets, processes, relax
from bptt_relax.experiments.crystals import figures
from bptt_relax.experiments.crystals.config import CrystalsConfig, DataSettings
from bptt_relax.experiments.silicon.run import limit
from bptt_relax.finetuning import cases as casing
from bptt_relax.finetuning import workspace
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.measure import Ruler, summarize
from bptt_relax.finetuning.run import run as finetune
from bptt_relax.finetuning.stages import make_cell_relaxation, make_rule
from bptt_relax.io.checks import changes_cell
from bptt_relax.models import BaseModel, base_model
from bptt_relax.relax import Theta
from bptt_relax.training import make_frame_errors
from bptt_relax.units import EV_PER_A3_IN_GPA


def run(config: CrystalsConfig) -> int:
    """Do the whole experiment.

    Args:
        config: settings.

    Returns:
        exit code, see `finetuning.run.run`, whose errors it raises.
    """
    compilation.keep_compiled_programs()
    name = f"crystals-{config.preset}"
    folder = workspace.choose_folder(config.out, config.resume, name)
    corpus = make_corpus(config.data)
    code = finetune("crystals", corpus, config.model_copy(update={"out": folder}), name)
    if not code and config.data.cells != "given":
        add_constant_pressure(folder, corpus, config)
    return code


def make_corpus(settings: DataSettings) -> Corpus:
    """The relaxations that the settings ask for, with their split."""
    data = datasets.load("crystals")
    free = [r for r in data.relaxations if changes_cell(r)]
    given = datasets.crystals.in_given_cells(data.relaxations)
    chosen = {"both": [*free, *given], "free": free, "given": given}[settings.cells]
    split = limit(datasets.crystals.split(chosen, fold=settings.fold), settings)
    return Corpus(data.name, data.sha256, chosen, split)


def add_constant_pressure(folder: Path, corpus: Corpus, config: CrystalsConfig) -> None:
    """Measure what a constant pressure does for the pretrained model, and add it to results and figures of a run."""
    path = folder / workspace.RESULTS
    results = json.loads(path.read_text())
    results["constant_pressure"] = constant_pressure(corpus, config, base_model(config.model))
    processes.write_json(path, results)
    figures.draw(folder, results)


def constant_pressure(corpus: Corpus, config: CrystalsConfig, base: BaseModel) -> dict[str, Any]:
    """The pretrained model under the pressure that it has, on average, at the DFT structures of the training crystals.

    Two levels of theory may differ by little more than that: one number, and nothing to be trained. What is gained
    beyond it is not an offset.

    Args:
        corpus: with relaxations whose cell is free.
        config: how to relax.
        base: the pretrained model.
    """
    potential, settings = base.potential, config.relaxation
    cases = casing.make_cases(corpus.used, potential.graph, settings.skin, potential.elements)
    rule = make_rule(settings)
    theta = Theta(base.params, rule.hyper)
    errors = make_frame_errors(potential)
    train = [r for r in corpus.select(corpus.split.train) if changes_cell(r)]
    found = np.array([errors(theta, cases.frames(r)[-1]).pressure for r in train])
    found += [np.trace(r.stresses[-1]) / 3.0 for r in train if r.stresses is not None]
    pressure = float(found.mean())
    relaxation = make_cell_relaxation(potential, rule, settings, pressure=pressure)
    test = [r for r in corpus.select(corpus.split.test) if changes_cell(r)]
    given = relax.relaxation(potential, rule)
    ruler = Ruler(cases, test, potential, given, settings.test_steps, relaxation)
    measured = ruler.measure(theta, [r.name for r in test], lambda *_: None)
    return {
        "pressure_GPa": EV_PER_A3_IN_GPA * pressure,
        "std_over_training_crystals_GPa": EV_PER_A3_IN_GPA * float(found.std()),
        "test": summarize([measured]),
    }
