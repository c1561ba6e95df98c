"""The figure and the tables of the data-efficiency experiment, from saved numbers only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptt_relax.report import style
from bptt_relax.report.names import PARTS
from bptt_relax.report.tables import Grid, change

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue and filled where relaxations are learned from, lighter where an arm sees less of each of them.
LOOKS: dict[str, dict[str, Any]] = {
    "recipe": {"color": style.COLORS["bptt"], "marker": "o"},
    "structures": {"color": "#56B4E9", "marker": "s"},
    "all_steps": {"color": style.COLORS["force_matching"], "marker": "D", "ls": "--"},
    "end_frames": {"color": "#CC79A7", "marker": "v", "ls": "--"},
}
CAPTION = (
    "ΔQ: mean mass-weighted distance to the DFT structure, √u·Å. All arms had the time that force matching and then "
    "BPTT took on the same relaxations. Intervals: 95%, over structures and draws."
)
SIZE = "relax-\nations"
CONVERGED = (
    "Converged: after the first epoch with 95% of all progress on the validation structures; mean over draws."
)


def draw(folder: Path, results: dict[str, Any]) -> None:
    """Draw into ``folder/figures``."""
    style.save(curves(results), folder / "figures", "data_efficiency")


def curves(results: dict[str, Any]) -> "Figure":
    """Delta Q, and epochs to converge, against the number of relaxations; one line per arm.

    Args:
        results: as in ``results.json``.
    """
    parts = _parts(results)
    with style.drawing():
        figure = style.new_figure(3.9 * (len(parts) + 1), 3.9)
        panels = figure.subplots(1, len(parts) + 1, squeeze=False)[0]
        for axes, part in zip(panels[:-1], parts, strict=True):
            _errors(axes, results, part)
        panels[0].set_ylabel(style.DELTA_Q)
        _convergence(panels[-1], results)
        for axes in panels:
            _sizes(axes, results)
        handles, _ = panels[0].get_legend_handles_labels()
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _errors(axes: "Axes", results: dict[str, Any], part: str) -> None:
    before = results["pretrained"][part]["delta_q"]
    axes.set_title(f"{PARTS[part]} ({len(before['per_structure'])})")
    style.level(axes, before["mean"], "pretrained")
    for order, (arm, about) in enumerate(results["arms"].items()):
        found = [entry["arms"][arm][part]["delta_q"] for entry in results["sizes"].values()]
        means = [each["mean"] for each in found]
        reach = [
            [mean - each["ci95"][0] for mean, each in zip(means, found, strict=True)],
            [each["ci95"][1] - mean for mean, each in zip(means, found, strict=True)],
        ]
        # Side by side, or the intervals of the arms would cover each other.
        x = [size * 2 ** (0.07 * (order - 1.5)) for size in map(int, results["sizes"])]
        axes.errorbar(
            x, means, reach, elinewidth=0.8, capsize=0, ms=5.0, mew=0, label=about["label"], **LOOKS[arm]
        )
    axes.set_ylim(bottom=0.0)


def _convergence(axes: "Axes", results: dict[str, Any]) -> None:
    axes.set_title("Epochs to converge")
    axes.set_ylabel("epochs until 95% of the progress")
    for arm in results["arms"]:
        found = [_converged(entry["arms"][arm], "epoch") for entry in results["sizes"].values()]
        axes.plot(list(map(int, results["sizes"])), found, ms=5.0, mew=0, **LOOKS[arm])
    axes.set_ylim(bottom=0.0)


def _sizes(axes: "Axes", results: dict[str, Any]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axes.grid(axis="y")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(map(int, results["sizes"]))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_xlabel("relaxations to learn from")


def tables(results: dict[str, Any]) -> list[Grid]:
    """For each part of the data every arm at every size and what is between them; then how soon each converged.

    Args:
        results: as in ``results.json``.
    """
    parts = _parts(results)
    return [
        *(_error_table(results, part) for part in parts),
        *(_against_table(results, part) for part in parts),
        _convergence_table(results),
    ]


def _error_table(results: dict[str, Any], part: str) -> Grid:
    arms = results["arms"]
    before = results["pretrained"][part]["delta_q"]
    rows = [(("none", False), *[(f"{before['mean']:.3f}", False)] * len(arms))]
    for size, entry in results["sizes"].items():
        means = [entry["arms"][arm][part]["delta_q"]["mean"] for arm in arms]
        rows.append(((size, False), *((f"{mean:.3f}", mean == min(means)) for mean in means)))
    title = f"{PARTS[part]} ({len(before['per_structure'])}): mean ΔQ"
    return Grid(title, (SIZE, *(about["label"] for about in arms.values())), tuple(rows), (CAPTION,))


def _against_table(results: dict[str, Any], part: str) -> Grid:
    labels = {arm: about["label"] for arm, about in results["arms"].items()}
    pairs = [tuple(name.split(" against ")) for name in next(iter(results["sizes"].values()))["against"]]
    rows = []
    for size, entry in results["sizes"].items():
        found = [each[part] for each in entry["against"].values()]
        cells = (size, *(change(each["mean"], each["ci95"]) for each in found))
        rows.append(tuple((cell, False) for cell in cells))
    headings = (SIZE, *(f"{labels[a]} against {labels[b]}" for a, b in pairs))
    return Grid(f"{PARTS[part]}: change of mean ΔQ, %", headings, tuple(rows))


def _convergence_table(results: dict[str, Any]) -> Grid:
    rows = []
    for size, entry in results["sizes"].items():
        cells = [size]
        for arm in results["arms"]:
            epochs, seconds = (_converged(entry["arms"][arm], key) for key in ("epoch", "seconds"))
            cells.append(f"{epochs:.1f} ({seconds:.0f} s)")
        rows.append(tuple((cell, False) for cell in cells))
    headings = (SIZE, *(about["label"] for about in results["arms"].values()))
    return Grid("Epochs, and training time, until converged", headings, tuple(rows), (CONVERGED,))


def _converged(found: dict[str, Any], key: str) -> float:
    """Mean over draws of the epoch or of the seconds at which an arm had converged."""
    values = [each["converged_at"][key] for each in found["draws"]]
    return sum(values) / len(values)


def _parts(results: dict[str, Any]) -> list[str]:
    return [part for part in PARTS if part in results["pretrained"]]
