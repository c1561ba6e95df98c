"""The figure of the pretraining, from saved numbers only: how the validation error fell, and what is left by group."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptt_relax.report import figures, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(folder: Path, results: dict, events: list[dict[str, Any]]) -> None:
    """Draw into ``folder/figures``.

    Args:
        folder: of the run.
        results: results.json.
        events: of ``metrics.jsonl``.
    """
    figures.save(force_errors(results, events), folder / "figures", f"{results['model']}_errors")


def force_errors(results: dict, events: list[dict[str, Any]]) -> "Figure":
    """Validation error by epoch, and the test error of each group beside the size of its forces.

    Args:
        results: results.json.
        events: of ``metrics.jsonl``.
    """
    epochs = {e["epoch"]: e["validation"] for e in events if e.get("event") == "epoch"}
    test = results["errors"]["test"]
    groups = sorted(set(test) - {"all"}, key=lambda group: -test[group]["mean_absolute_force"])
    with style.drawing():
        figure = style.new_figure(9.2, 3.6)
        left, right = figure.subplots(1, 2)
        left.set_title(f"{results['model']}: validation")
        left.plot(list(epochs), [1e3 * error for error in epochs.values()], color=style.COLORS["bptt"])
        left.set_xlabel("epoch")
        left.set_ylabel("force MAE (meV/Å)")
        left.set_ylim(bottom=0.0)
        left.grid(axis="y")
        right.set_title("Test frames, by group")
        places = range(len(groups))
        sizes = [1e3 * test[group]["mean_absolute_force"] for group in groups]
        errors = [1e3 * test[group]["mae"] for group in groups]
        right.barh(places, sizes, color=style.FAINT, label="mean |F|")
        right.barh(places, errors, height=0.45, color=style.COLORS["bptt"], label="MAE")
        right.set_yticks(list(places), [f"{group} ({test[group]['frames']})" for group in groups])
        right.invert_yaxis()
        right.set_xlabel("meV/Å")
        right.legend(loc="lower right")
    return figure
