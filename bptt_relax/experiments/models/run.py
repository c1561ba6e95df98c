"""Every model through the whole pipeline on the same defects, each in a folder of its own, then their average."""

from collections.abc import Mapping
from pathlib import Path

import jax

from bptt_relax import processes
from bptt_relax.experiments._defects import part_of_silicon
from bptt_relax.experiments.models import figures
from bptt_relax.experiments.models.config import ModelsConfig
from bptt_relax.finetuning import results, statistics
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.run import check, fine_tune
from bptt_relax.models import BaseModel, base_model
from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.report.tables import print_grids
from bptt_relax.runs import folder as folders
from bptt_relax.runs.session import Finished, Found, opened


def run(config: ModelsConfig) -> Finished:
    """Do the whole experiment.

    Args:
        config: settings.

    Raises:
        InputError: anything about the settings or the folder.
        ModelError: not one of the models can be had.
        Interrupted: it was stopped; everything so far is in the folder.
    """
    corpus = part_of_silicon(config.data)
    folder = folders.choose(config.out, config.resume, f"models-{config.preset}")
    bases, skipped = _available(config, corpus)
    decisive = config.resolved() | {"data_sha256": corpus.sha256}
    with opened(folder, decisive, config.resume) as session:
        runs: dict[str, Found] = {}
        for name, base in bases.items():
            session.check_stop(name)
            runs[name] = _one(config, name, base, folder / Path(name).name)
        found = _gather(config, corpus, runs, skipped)
        written = session.write_results("models", config.preset, config.resolved(), found)
        figures.draw(folder, written)
    return Finished(folder, written)


def show(results: Found) -> None:
    """Print the tables of what was found."""
    print_grids(figures.tables(results))


def _available(config: ModelsConfig, corpus: Corpus) -> tuple[dict[str, BaseModel], dict[str, str]]:
    """Models that can be tuned on these relaxations, and why the others can't: known before hours have passed."""
    bases: dict[str, BaseModel] = {}
    skipped: dict[str, str] = {}
    for name in config.models:
        try:
            base = base_model(name)
            check(corpus, config.for_model(name), base)
        except (InputError, ModelError) as reason:
            skipped[name] = str(reason)
            print(f"skipped {name}: {reason}")
        else:
            bases[name] = base
    if not bases:
        raise ModelError("no model is left: " + "; ".join(f"{name}: {why}" for name, why in skipped.items()))
    return bases, skipped


def _one(config: ModelsConfig, name: str, base: BaseModel, folder: Path) -> Found:
    """One model's run, see `finetuning.run.fine_tune`; a finished one is read back."""
    done = folder / folders.RESULTS
    if done.is_file():
        return processes.read_json(done)
    corpus = part_of_silicon(config.part_for(name))
    try:
        # Its own name for the experiment: one model's run can't be published as the whole.
        return fine_tune(f"models/{folder.name}", corpus, config.for_model(name), folder, base).results
    finally:
        jax.clear_caches()  # no model runs another one's programs


def _gather(config: ModelsConfig, corpus: Corpus, runs: dict[str, Found], skipped: dict[str, str]) -> Found:
    """What results.json holds: a block for each model as in a run of one, and what they have in common."""
    models = {name: block for name, found in runs.items() for block in found["models"].values()}
    seeds = range(config.seed, config.seed + config.num_seeds)
    return {
        "dataset": results.dataset(corpus),
        "seeds": list(seeds),
        "models": models,
        "average": average(models),
        "skipped": skipped,
        "runs": {
            name: {
                "base_model": found["base_model"],
                "own_settings": config.own(name)._asdict(),
                "num_train": len(found["dataset"]["train"]),
                "stability": found["stability"],
                "timing_s": found["timing_s"],
                "peak_rss_mb": found["peak_rss_mb"],
            }
            for name, found in runs.items()
        },
    }


def average(models: Mapping[str, Found]) -> Found:
    """Reductions of Delta Q between stages, averaged over models, on the test structures and on unseen kinds.

    Args:
        models: blocks as in results.json, measured on the same structures.
    """
    parts = {
        "test": list(models.values()),
        "unseen": [block["unseen"] for block in models.values() if "unseen" in block],
    }
    return {part: _average(blocks) for part, blocks in parts.items() if blocks and "pretrained" in blocks[0]}


def _average(blocks: list[Found]) -> Found:
    compared = {
        "bptt_vs_pretrained": ("pretrained", "bptt"),
        "force_matching_vs_pretrained": ("pretrained", "force_matching"),
        "bptt_vs_force_matching": ("force_matching", "bptt"),
    }
    found: Found = {
        "num_models": len(blocks),
        "num_structures": len(blocks[0]["pretrained"]["delta_q"]["per_structure"]),
    }
    for name, stages in compared.items():
        before, after = ([block[stage]["delta_q"]["per_seed"] for block in blocks] for stage in stages)
        means = ([block[stage]["delta_q"]["mean"] for block in blocks] for stage in stages)
        reductions = [statistics.reduction(b, a) for b, a in zip(*means, strict=True)]
        found[name] = {
            "mean": sum(reductions) / len(reductions),
            "ci95": list(statistics.average_reduction_interval(before, after)),
        }
    return found
