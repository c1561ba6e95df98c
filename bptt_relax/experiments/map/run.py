"""The same look at the pretrained model, the force-matched one and the one that BPTT tuned."""

import json
from typing import Any

import numpy as np

from bptt_relax import compilation, processes
from bptt_relax.experiments._defects import part_of_silicon
from bptt_relax.experiments.map import figures
from bptt_relax.experiments.map.config import MapConfig
from bptt_relax.experiments.map.measure import Lens
from bptt_relax.finetuning.comparison import Comparison, Drawing, compare
from bptt_relax.finetuning.settings import RelaxationSettings
from bptt_relax.finetuning.variants import changed
from bptt_relax.finetuning.workspace import CONFIG
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError
from bptt_relax.relax import Theta
from bptt_relax.training import Interrupted

Look = dict[str, dict[str, Any]]
"""Structure -> what was seen of it with one model."""


def run(config: MapConfig) -> int:
    """Do the whole experiment.

    Args:
        config: settings.

    Returns:
        exit code, see `finetuning.comparison.compare`, whose errors it raises.

    Raises:
        InputError: the run to look at is none, or of another model.
    """
    compilation.keep_compiled_programs()
    if config.run is not None:
        config = config.model_copy(update={"relaxation": _relaxation_of_run(config)})
    drawing = Drawing(figures.draw, lambda found: [figures.table(found)])
    corpus = part_of_silicon(config.data)
    return compare(
        "map", corpus, config, config.preset, lambda comparison: _work(comparison, config), drawing
    )


def _relaxation_of_run(config: MapConfig) -> RelaxationSettings:
    """How the run relaxed, whose models are looked at with the same map."""
    assert config.run is not None
    config.files()
    path = config.run / CONFIG
    try:
        found = json.loads(path.read_text())
        relaxation = RelaxationSettings.model_validate(found["relaxation"])
        model, learned = found["model"], found["bptt"]["learn_rule"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not the configuration of a run of the silicon experiment: {error}"
        ) from error
    if model != config.model:
        raise InputError(
            f"--run {config.run} tuned {model}, and --model is {config.model}: give both the same"
        )
    if learned:
        raise InputError(
            f"--run {config.run} learned a rule of its own: maps of two rules can not be compared"
        )
    return relaxation


def _work(comparison: Comparison, config: MapConfig) -> dict[str, Any]:
    models, about = _models(comparison, config)
    structures = comparison.corpus.select(comparison.corpus.split.test)
    lens = Lens(comparison.potential, structures, config.relaxation, config.lens)
    looks = comparison.session.timed("looking", lambda: _looks(comparison, lens, models, structures))
    return {
        "tuned": about,
        "structures": [r.name for r in structures],
        "models": {stage: _without_paths(look) for stage, look in looks.items()},
        "plane": plane(looks, structures),
    }


def _models(comparison: Comparison, config: MapConfig) -> tuple[dict[str, Theta], dict[str, Any]]:
    """The models to look at, and how they came about."""
    start, base = comparison.pretrained, comparison.base
    if config.run is not None:
        files = config.files()
        tuned = {stage: start._replace(potential=base.load(path)) for stage, path in files.items()}
        return {"pretrained": start} | tuned, {"from": "a run", "sha256": config.resolved()["run"]}
    found = comparison.train("bptt", changed(config, {}), "BPTT")
    tuned = {stage: result.theta for stage, result in found.stages.items()}
    return {"pretrained": start} | tuned, {"from": "here", **found.describe()}


def _looks(
    comparison: Comparison, lens: Lens, models: dict[str, Theta], structures: list[Relaxation]
) -> dict[str, Look]:
    """Each structure with each model, once: what an interrupted run has seen is read back."""
    session, found = comparison.session, {stage: {} for stage in models}
    session.reporter.begin("looking at the map", len(models) * len(structures), unit="looks")
    for reference in structures:
        for stage, theta in models.items():
            path = session.folder / "looks" / stage / f"{reference.name}.json"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                processes.write_json(path, lens(theta, reference))
            found[stage][reference.name] = json.loads(path.read_text())
            session.reporter.advance(structure=reference.name)
            if session.stop():
                raise Interrupted("looking")
    return found


def _without_paths(look: Look) -> Look:
    return {name: {key: value for key, value in seen.items() if key != "path"} for name, seen in look.items()}


def plane(looks: dict[str, Look], structures: list[Relaxation]) -> dict[str, Any]:
    """Paths of all models from one start, in the plane through the DFT structure, the start and the pretrained end.

    Of the structures whose pretrained relaxation ends in the reference's basin the one it ends furthest from; of all,
    where there is none. Coordinates are mass-weighted, so that lengths are Delta Q, or less where a path leaves the
    plane.

    Args:
        looks: stage -> structure -> what was seen, the pretrained one among them.
        structures: of the reference method.
    """
    before = looks["pretrained"]
    names = [name for name, seen in before.items() if seen["convergence"]["same_basin"]] or list(before)
    name = max(names, key=lambda n: before[n]["convergence"]["to_reference"][-1])
    reference = next(r for r in structures if r.name == name)
    root = np.sqrt(reference.relaxed.masses)[:, None]
    cell = reference.relaxed.cell

    def weighted(positions: np.ndarray) -> np.ndarray:
        d = positions - reference.relaxed.positions
        d = d - np.rint(d @ np.linalg.inv(cell)) @ cell
        return (root * (d - d.mean(axis=-2, keepdims=True))).reshape(*d.shape[:-2], -1)

    paths = {stage: weighted(np.asarray(look[name]["path"])) for stage, look in looks.items()}
    across = paths["pretrained"][-1]
    across = across / max(np.linalg.norm(across), 1e-12)
    up = paths["pretrained"][0] - (paths["pretrained"][0] @ across) * across
    up = up / max(np.linalg.norm(up), 1e-12)
    axes = np.stack([across, up], axis=-1)
    return {"structure": name, "paths": {stage: np.round(p @ axes, 4).tolist() for stage, p in paths.items()}}
