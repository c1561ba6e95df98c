"""The figure and the tables of the comparison of pretrained models, from saved numbers only."""

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from bptt_relax.report import figures, style
from bptt_relax.report.names import PARTS, STAGES
from bptt_relax.report.tables import Grid, change, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Mean ΔQ, the mass-weighted distance to the DFT structure, √u·Å, and its changes. Intervals: 95%, over structures "
    "and seeds, the average's over models as well."
)


def draw(folder: Path, results: dict[str, Any]) -> None:
    """Draw into ``folder/figures``."""
    style.save(before_after(results), folder / "figures", "models")


def before_after(results: dict[str, Any]) -> "Figure":
    """Mean Delta Q of every model: pretrained, force matching, BPTT; test structures above, unseen kinds below.

    Args:
        results: as in ``results.json``.
    """
    rows, changes = {}, {}
    for part, title in PARTS.items():
        blocks = _blocks(results, part)
        if blocks:
            average = results["average"][part]
            title = f"{title} ({average['num_structures']}), models"
            changes[title] = -average["bptt_vs_pretrained"]["mean"]
            rows[title] = [
                # A model in a file has the name of the file: a whole path leaves no room for the points.
                (PurePath(model).name, {stage: block[stage]["delta_q"]["mean"] for stage in STAGES})
                for model, block in blocks.items()
            ]
    return figures.paired(rows, changes)


def tables(results: dict[str, Any]) -> list[Grid]:
    """One row per model, a table for each part of the data.

    Args:
        results: as in ``results.json``.
    """
    return [_table(results, part) for part in PARTS if _blocks(results, part)]


def _blocks(results: dict[str, Any], part: str) -> dict[str, Any]:
    blocks = results["models"]
    if part == "unseen":
        blocks = {model: block.get("unseen") or {} for model, block in blocks.items()}
    return {model: block for model, block in blocks.items() if "pretrained" in block}


def _table(results: dict[str, Any], part: str) -> Grid:
    average = results["average"][part]
    blocks = _blocks(results, part)
    rows = []
    for model, block in blocks.items():
        means = [block[stage]["delta_q"]["mean"] for stage in STAGES]
        reduction = block["reduction"]
        rows.append(
            (
                (PurePath(model).name, False),
                *((f"{mean:.3f}", mean == min(means)) for mean in means),
                (change(reduction["bptt_vs_pretrained"], reduction["ci95"]), False),
                (
                    change(reduction["bptt_vs_force_matching"], reduction["bptt_vs_force_matching_ci95"]),
                    False,
                ),
            )
        )
    compared = (average[name] for name in ("bptt_vs_pretrained", "bptt_vs_force_matching"))
    control = percent(-average["force_matching_vs_pretrained"]["mean"])
    last = ["average", "", control, "", *(change(each["mean"], each["ci95"]) for each in compared)]
    rows.append(tuple((cell, True) for cell in last))
    headings = ("", "pre-\ntrained", "force\nmatching", "BPTT")
    headings += ("BPTT against\npretrained, %", "BPTT against\nforce matching, %")
    return Grid(f"{PARTS[part]} ({average['num_structures']})", headings, tuple(rows), _notes(results))


def _notes(results: dict[str, Any]) -> tuple[str, ...]:
    own = {model: run["own_settings"]["reason"] for model, run in results["runs"].items()}
    return (
        CAPTION,
        *(f"Settings of its own: {model}: {reason}." for model, reason in own.items() if reason),
        *(f"Skipped: {model}: {reason}" for model, reason in results["skipped"].items()),
    )
