"""The map of the pretrained model, of the force-matched one and of the one that BPTT tuned, measured alike."""

import json
from typing import Any

import numpy as np

from bptt_relax.experiments._defects import part_of_silicon
from bptt_relax.experiments.map import figures
from bptt_relax.experiments.map.config import MapConfig
from bptt_relax.experiments.map.measure import RelaxationMap
from bptt_relax.finetuning.comparison import Comparison, compare
from bptt_relax.finetuning.settings import RelaxationSettings
from bptt_relax.finetuning.variants import changed
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError
from bptt_relax.relax import Theta
from bptt_relax.report.tables import print_grids
from bptt_relax.runs.folder import CONFIG
from bptt_relax.runs.session import Finished, Found

Maps = dict[str, dict[str, Any]]
"""Structure -> what was measured of it with one model."""


def run(config: MapConfig) -> Finished:
    """Do the whole experiment.

    Args:
        config: settings.

    Raises:
        InputError, ModelError, Interrupted: see `finetuning.comparison.compare`; or the run whose models are to be
            measured is none, or of another model.
    """
    if config.run is not None:
        config = config.model_copy(update={"relaxation": _relaxation_of_run(config)})
    corpus = part_of_silicon(config.data)
    return compare("map", corpus, config, lambda comparison: _work(comparison, config), figures.draw)


def show(results: Found) -> None:
    """Print the table of what was found."""
    print_grids([figures.table(results)])


def _relaxation_of_run(config: MapConfig) -> RelaxationSettings:
    """How the run relaxed whose models are measured: the map is that of the same relaxation."""
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


def _work(comparison: Comparison, config: MapConfig) -> Found:
    models, about = _models(comparison, config)
    structures = comparison.corpus.select(comparison.corpus.split.test)
    measure = RelaxationMap(comparison.potential, structures, config.relaxation, config.map)
    maps = comparison.session.timed("map", lambda: _maps(comparison, measure, models, structures))
    return {
        "tuned": about,
        "structures": [r.name for r in structures],
        "models": {stage: _without_paths(found) for stage, found in maps.items()},
        "plane": plane(maps, structures),
    }


def _models(comparison: Comparison, config: MapConfig) -> tuple[dict[str, Theta], Found]:
    """The models to measure, and how they came about."""
    start, base = comparison.pretrained, comparison.base
    if config.run is not None:
        files = config.files()
        tuned = {stage: start._replace(potential=base.load(path)) for stage, path in files.items()}
        return {"pretrained": start} | tuned, {"from": "a run", "sha256": config.resolved()["run"]}
    found = comparison.train("bptt", changed(config, {}), "BPTT")
    tuned = {stage: result.theta for stage, result in found.stages.items()}
    return {"pretrained": start} | tuned, {"from": "here", **found.describe()}


def _maps(
    comparison: Comparison, measure: RelaxationMap, models: dict[str, Theta], structures: list[Relaxation]
) -> dict[str, Maps]:
    """Each structure with each model, once."""
    session, found = comparison.session, {stage: {} for stage in models}
    session.reporter.begin("measuring the map", len(models) * len(structures), unit="maps")
    for reference in structures:
        for stage, theta in models.items():
            path = session.folder / "maps" / stage / f"{reference.name}.json"
            found[stage][reference.name] = session.once(path, lambda t=theta, r=reference: measure(t, r))
            session.reporter.advance(structure=reference.name)
            session.check_stop("map")
    return found


def _without_paths(maps: Maps) -> Maps:
    return {
        name: {key: value for key, value in found.items() if key != "path"} for name, found in maps.items()
    }


def plane(maps: dict[str, Maps], structures: list[Relaxation]) -> dict[str, Any]:
    """Paths of all models from one start, in the plane through the DFT structure, the start and the pretrained end.

    Of the structures whose pretrained relaxation ends in the reference's basin the one it ends furthest from; of all,
    where there is none. Coordinates are mass-weighted, so that lengths are Delta Q, or less where a path leaves the
    plane.

    Args:
        maps: stage -> structure -> what was measured, the pretrained one among them.
        structures: of the reference method.
    """
    before = maps["pretrained"]
    names = [name for name, found in before.items() if found["convergence"]["same_basin"]] or list(before)
    name = max(names, key=lambda n: before[n]["convergence"]["to_reference"][-1])
    reference = next(r for r in structures if r.name == name)
    root = np.sqrt(reference.relaxed.masses)[:, None]
    cell = reference.relaxed.cell

    def weighted(positions: np.ndarray) -> np.ndarray:
        d = positions - reference.relaxed.positions
        d = d - np.rint(d @ np.linalg.inv(cell)) @ cell
        return (root * (d - d.mean(axis=-2, keepdims=True))).reshape(*d.shape[:-2], -1)

    paths = {stage: weighted(np.asarray(found[name]["path"])) for stage, found in maps.items()}
    across = paths["pretrained"][-1]
    across = across / max(np.linalg.norm(across), 1e-12)
    up = paths["pretrained"][0] - (paths["pretrained"][0] @ across) * across
    up = up / max(np.linalg.norm(up), 1e-12)
    axes = np.stack([across, up], axis=-1)
    return {"structure": name, "paths": {stage: np.round(p @ axes, 4).tolist() for stage, p in paths.items()}}
