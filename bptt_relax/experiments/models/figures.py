"""The figure and the tables of the comparison of pretrained models, from saved numbers only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptt_relax.report import figures, style
from bptt_relax.report.names import STAGES, stage_label
from bptt_relax.report.tables import Grid, change

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {"test": "Test structures", "unseen": "Kinds never trained on"}
CAPTION = (
    "ΔQ: mean mass-weighted distance to the DFT structure, √u·Å. Intervals: 95%, over structures and seeds, the "
    "average's over models as well. The average is that of the changes. Same basin: pretrained → BPTT."
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
                (model, {stage: block[stage]["delta_q"]["mean"] for stage in STAGES})
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
    rows = []
    for model, block in _blocks(results, part).items():
        means = [block[stage]["delta_q"]["mean"] for stage in STAGES]
        reduction = block["reduction"]
        basins = " → ".join(f"{block[stage]['basin_fraction']:.0%}" for stage in ("pretrained", "bptt"))
        cells = [(model, False), (str(results["runs"][model]["num_train"]), False)]
        cells += [(f"{mean:.3f}", mean == min(means)) for mean in means]
        cells += [
            (change(reduction["force_matching_vs_pretrained"]), False),
            (change(reduction["bptt_vs_pretrained"], reduction["ci95"]), False),
            (change(reduction["bptt_vs_force_matching"], reduction["bptt_vs_force_matching_ci95"]), False),
            (basins, False),
        ]
        rows.append(tuple(cells))
    compared = ("force_matching_vs_pretrained", "bptt_vs_pretrained", "bptt_vs_force_matching")
    changes = [change(average[name]["mean"], average[name]["ci95"]) for name in compared]
    rows.append(tuple((cell, True) for cell in ("average", "", "", "", "", *changes, "")))
    headings = ("", "trained\non", *(f"ΔQ\n{stage_label(stage)}" for stage in STAGES))
    headings += ("force matching\nagainst pretrained", "BPTT against\npretrained")
    headings += ("BPTT against\nforce matching", "same\nbasin")
    notes = (CAPTION, *(f"Skipped: {model}: {reason}" for model, reason in results["skipped"].items()))
    return Grid(f"{PARTS[part]} ({average['num_structures']})", headings, tuple(rows), notes)
