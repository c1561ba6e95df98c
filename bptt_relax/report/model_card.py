"""The model card beside each tuned model: what it is, from what, how good, what it has forgotten, whom to cite.

A view of results.json: nothing is measured or computed for it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bptt_relax.report import forgetting
from bptt_relax.report.names import stage_label
from bptt_relax.report.tables import CAPTION, escape, forgetting_grid, markdown, stage_grid

METHOD = "doi:10.48550/arXiv.2512.01067"
LOW_RANK = "doi:10.48550/arXiv.2106.09685"
PARTS = {
    "train": "trained on",
    "validation": "chose the model",
    "test": "tested on",
    "unseen_kinds": "of kinds never trained on, tested on",
}


def write_model_cards(folder: Path, results: dict[str, Any]) -> list[Path]:
    """Write ``<stage>.model-card.md`` beside each tuned model of a run.

    Args:
        folder: of the run.
        results: as in ``results.json``.

    Returns:
        the files written.
    """
    (entry,) = results["models"].values()
    written = []
    for index, seed in enumerate(results["seeds"]):
        target = folder / f"seed{seed}"
        for stage in ("force_matching", "bptt"):
            if entry.get(stage) or (entry.get("unseen") or {}).get(stage):
                path = target / f"{stage}.model-card.md"
                path.write_text(model_card(results, stage, index), encoding="utf-8")
                written.append(path)
    return written


def model_card(results: dict[str, Any], stage: str, index: int = 0) -> str:
    """The card of one tuned model, as Markdown.

    Args:
        results: as in ``results.json``.
        stage: that the model comes from.
        index: which of the seeds.
    """
    base, seed = results["base_model"], results["seeds"][index]
    title = f"# {_text(base['name'])}, tuned by {stage_label(stage)} on {_text(results['dataset']['name'])}"
    sections = [
        title,
        _identity(base, results, stage, seed),
        "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in _limits(results, base, stage)),
        "## Errors on what was held out\n\n" + "\n\n".join(_errors(results, stage, index)),
        "## What it has forgotten\n\n" + _forgetting(results, stage, index),
        "## Data\n\n" + _data(results["dataset"]),
        "## Settings and software\n\n" + _settings(results),
        "## Licence of the base model\n\n" + _licence(base),
        "## Cite\n\n" + "\n".join(f"- {line}" for line in _citations(results, base)),
    ]
    return "\n\n".join(sections) + "\n"


def _identity(base: dict[str, Any], results: dict[str, Any], stage: str, seed: int) -> str:
    started = f", continued from {_text(base['started_from'])}" if base["started_from"] else ""
    # A potential from Python is of no family: what is known of it is its parameters.
    hashed = "published file" if base.get("family", True) else "given from Python, its parameters"
    sha256 = f" ({hashed} sha256 {base['sha256']})" if base["sha256"] else ""
    first = results["config"]["bptt"]["start_from"] == "force_matching"
    how = {
        "bptt": "backpropagation through the structural relaxation"
        + (", after force matching where the data have forces" if first else ""),
        "force_matching": "matching the forces of ionic steps, for as long as BPTT and what led to it took",
    }[stage]
    commit = results["environment"].get("commit")
    return (
        f"An interatomic potential: {_text(base['name'])}{sha256}{started}, tuned by {how}. Seed {seed}. "
        f"Made by bptt_relax {results['environment']['packages'].get('bptt-relax') or ''}"
        + (f", commit {commit}" if commit else "")
        + "."
    )


def _limits(results: dict[str, Any], base: dict[str, Any], stage: str) -> Iterator[str]:
    (entry,) = results["models"].values()
    blocks = (entry, entry.get("unseen") or {})
    cells = any((block.get(stage) or {}).get("cell") for block in blocks)
    yield (
        f"For relaxing structures like those it was trained on, {'cell included' if cells else 'with the cell fixed'}, "
        "at the level of theory of their reference calculations. The energies of those were not learned: compare its "
        "own with those of no other model."
    )
    found = _stages(results).get(stage)
    if found is None:
        yield "Other chemistry was not checked: use it for what it was trained on."
    else:
        since = (
            f" Counted from {_text(base['started_from'])}, not from the published model."
            if base["started_from"]
            else ""
        )
        yield forgetting.sentence(found) + since
    covers = (
        f"covers {base['num_elements']} elements"
        if base["num_elements"]
        else "names no elements that it covers"
    )
    functional = _text(base["functional"]) or "at a level of theory that is not known"
    yield (
        f"The base model {covers} ({functional}); what was not among the training data is at best as good as it was "
        "there."
    )
    if not entry.get("unseen"):
        yield "No kind of structure was held out entirely: how it does on new kinds is not known."
    yield "Relaxations end in some minimum of this model; whether it is the reference's is what the table below counts."


def _errors(results: dict[str, Any], stage: str, index: int) -> Iterator[str]:
    (entry,) = results["models"].values()
    several = len(results["seeds"]) > 1
    for block, title in ((entry, "Test structures"), (entry.get("unseen"), "Kinds never trained on")):
        if not block or not block.get(stage):
            continue
        delta_q = block[stage]["delta_q"]
        own = [values[index] for values in delta_q["per_seed"].values()]
        low, high = delta_q["ci95"]
        text = f"Mean Delta Q {delta_q['mean']:.3f} sqrt(u) angstrom (95% interval over structures and seeds "
        text += f"{low:.3f} to {high:.3f})"
        if several:
            text += f"; means over {len(results['seeds'])} seeds"
        note = f"{text}. Structures: {len(own)}."
        shown = {key: block[key] for key in ("pretrained", stage) if key in block}
        if stage == "bptt" and "reduction" in block:
            shown["reduction"] = block["reduction"]
        yield markdown(stage_grid(title, shown, CAPTION if block is entry else None)) + f"\n\n{note}"


def _forgetting(results: dict[str, Any], stage: str, index: int) -> str:
    entry = _stages(results).get(stage)
    if entry is None:
        return "Not checked."
    text = markdown(forgetting_grid(f"{entry['light']}", entry, forgetting.CAPTION))
    lights = entry["lights"]
    if len(lights) > 1:
        text += f"\n\nMeans over {len(lights)} seeds, the worst light of any; this one: {lights[index]}."
    return text


def _data(dataset: dict[str, Any]) -> str:
    lines = [f"{_text(dataset['name'])}, sha256 {dataset['sha256']}.", ""]
    for part, label in PARTS.items():
        names = dataset.get(part) or []
        listed = f": {', '.join(map(_text, names))}" if names else ""
        lines.append(f"- {len(names)} {label}{listed}")
    return "\n".join(lines)


def _settings(results: dict[str, Any]) -> str:
    software = ", ".join(f"{name} {v}" for name, v in results["environment"]["packages"].items() if v)
    device = results["environment"]["device"]
    # Settings hold names of files, which must not end the fence.
    config = json.dumps(results["config"], indent=2).replace("`", "'")
    return f"```json\n{config}\n```\n\nPython {results['environment']['python']}, {software}; {_text(device['kind'])}."


def _licence(base: dict[str, Any]) -> str:
    if not base["licence"]:
        return (
            "Unknown: the base model was given without one. These weights are derived from it; ask whoever made it "
            "before passing them on."
        )
    if not base["notice"]:
        return f"{_text(base['licence'])}."
    notice = "\n".join(f"> {_text(line)}".rstrip() for line in base["notice"].splitlines())
    terms = "These weights are derived from it and stay under its terms; its notice:"
    return f"{_text(base['licence'])}. {terms}\n\n{notice}"


def _citations(results: dict[str, Any], base: dict[str, Any]) -> Iterator[str]:
    yield f"the base model: {_text(base['citation']) or 'not known, ask whoever made it'}"
    yield f"backpropagation through relaxation: {METHOD}"
    if results["config"].get("parameters", {}).get("rank"):
        yield f"low-rank updates: {LOW_RANK}"
    version = results["environment"]["packages"].get("bptt-relax")
    yield f"the software: bptt_relax{f' {version}' if version else ''}"


def _stages(results: dict[str, Any]) -> dict[str, Any]:
    return (results.get("forgetting") or {}).get("stages", {})


def _text(value: Any) -> str:
    """Anything that comes from outside, on one line, as text."""
    return escape(" ".join(str(value).split()))
