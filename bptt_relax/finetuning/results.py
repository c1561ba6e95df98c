"""The numbers of results.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bptt_relax.finetuning import statistics
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.measurement import Runs, summarize
from bptt_relax.weights.registry import Model

PARTS = ("train", "validation", "test", "unseen_kinds")


def dataset(corpus: Corpus) -> dict:
    """The data of a run and what each relaxation was used for."""
    used = {part: list(names) for part, names in zip(PARTS, corpus.split, strict=True)}
    return {"name": corpus.name, "sha256": corpus.sha256, **used}


def blocks(corpus: Corpus, runs: Runs) -> dict:
    """A model's entry: every stage on the test structures, and in ``unseen`` on the kinds never trained on.

    Args:
        corpus: says which structures are which.
        runs: measurements of all held-out structures.
    """
    found = {}
    for part, names in (("test", corpus.split.test), ("unseen", corpus.split.unseen)):
        if names:
            block: dict = {
                stage: summarize([{n: run[n] for n in names} for run in measured])
                for stage, measured in runs.items()
            }
            found[part] = block | {"reduction": compare(block)} | by_cell(runs, names)
    return found.get("test", {}) | ({"unseen": found["unseen"]} if "unseen" in found else {})


def by_cell(runs: Runs, names: Sequence[str]) -> dict:
    """The same for relaxations with a free and with a given cell alone, where there are both.

    Args:
        runs: measurements.
        names: of a part.
    """
    free = [n for n in names if runs["pretrained"][0][n].relaxed.cell is not None]
    if not 0 < len(free) < len(names):
        return {}
    found = {}
    for key, members in (("free_cell", free), ("given_cell", [n for n in names if n not in free])):
        block = {
            stage: summarize([{n: run[n] for n in members} for run in each]) for stage, each in runs.items()
        }
        found[key] = block | {"reduction": compare(block)}
    return found


def compare(block: Mapping[str, dict]) -> dict:
    """Reductions between stages, as fractions of the mean over structures; no control, no comparison.

    Of Delta Q and, where cells were relaxed too, of their errors.
    """
    compared = _compare({stage: summary["delta_q"] for stage, summary in block.items()})
    if "cell" in block["pretrained"]:
        of_cell = {stage: summary["cell"] for stage, summary in block.items()}
        for error in ("volume_error", "strain"):
            compared[error] = _compare({stage: cell[error] for stage, cell in of_cell.items()})
    return compared


def _compare(stages: Mapping[str, dict]) -> dict:
    before, after, control = stages["pretrained"], stages["bptt"], stages.get("force_matching")
    compared = {
        "bptt_vs_pretrained": statistics.reduction(before["mean"], after["mean"]),
        "ci95": list(statistics.reduction_interval(before["per_seed"], after["per_seed"])),
    }
    if "geometric_mean" in before:
        compared["geometric_mean"] = statistics.reduction(before["geometric_mean"], after["geometric_mean"])
    if control is None:
        return compared
    return compared | {
        "bptt_vs_force_matching": statistics.reduction(control["mean"], after["mean"]),
        "bptt_vs_force_matching_ci95": list(
            statistics.reduction_interval(control["per_seed"], after["per_seed"])
        ),
        "force_matching_vs_pretrained": statistics.reduction(before["mean"], control["mean"]),
    }


def base_model(name_or_path: str, model: Model) -> dict:
    """What the model card needs to know of the model a run started from."""
    kept = ("name", "family", "licence", "notice", "functional", "citation", "sha256", "cutoff")
    started_from = None if name_or_path == model.name else Path(name_or_path).name
    return {key: getattr(model, key) for key in kept} | {
        "num_elements": len(model.elements),
        "started_from": started_from,
    }
