"""What fine-tuning has changed elsewhere, as rows for tables, from results.json alone."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Quantity(NamedTuple):
    """One block of the check: what it is called and how its numbers are written."""

    label: str
    form: Callable[[float], str]


QUANTITIES = {
    "energy": Quantity("energy, meV/atom", lambda x: f"{1000 * x:.0f}"),
    "volume": Quantity("volume, %", lambda x: f"{100 * x:.1f}"),
    "bulk_modulus": Quantity("bulk modulus, %", lambda x: f"{100 * x:.1f}"),
    "forces": Quantity("forces, meV/Å", lambda x: f"{1000 * x:.0f}"),
}

HEADINGS = ("", "mean\nchange", "own\nerror", "ratio", "light", "worst")

CAPTION = (
    "Change against the pretrained model on crystals of other chemistry, judged by the pretrained model's own error: "
    "green below half of it, yellow below all of it, red beyond, or where a minimum or the repulsion of a pair is lost."
)


def rows(entry: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of one stage, in the order of the headings.

    Args:
        entry: of ``results["forgetting"]["stages"]``.
    """
    found = []
    for name, quantity in QUANTITIES.items():
        block = entry["blocks"].get(name)
        if block is None:
            continue
        found.append(
            (
                quantity.label,
                quantity.form(block["change"]),
                quantity.form(block["scale"]),
                f"{block['ratio']:.2f}",
                block["light"],
                f"{block['worst']} {quantity.form(block['worst_change'])}",
            )
        )
    return [*found, *_short_range(entry["blocks"].get("short_range"))]


def _short_range(block: dict[str, Any] | None) -> list[tuple[str, ...]]:
    if not block or block["mean_share"] is None:
        return []
    kept = f"{100 * block['mean_share']:.0f}"
    worst = f"{block['weakest']} {100 * block['weakest_share']:.0f}"
    if block["holes"]:
        worst = f"hole: {', '.join(block['holes'])}"
    return [(f"repulsion kept, % ({block['pairs']} pairs)", kept, "–", "–", block["light"], worst)]


def sentence(entry: dict[str, Any]) -> str:
    """The verdict in words.

    Args:
        entry: of ``results["forgetting"]["stages"]``.
    """
    text = {
        "green": "Other chemistry is as it was, within half of the pretrained model's own error.",
        "yellow": "Other chemistry has changed, by less than the pretrained model's own error.",
        "red": "Other chemistry has changed by as much as the pretrained model's own error or more: use this model for "
        "what it was trained on.",
    }[entry["light"]]
    if entry["minima_lost"]:
        text += f" Lost the equilibrium volume of {', '.join(entry['minima_lost'])}."
    holes = (entry["blocks"].get("short_range") or {}).get("holes")
    if holes:
        text += f" Pairs that no longer push each other apart: {', '.join(holes)}."
    return text
