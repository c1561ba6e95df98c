"""How the bundled silicon defects are split, fixed before any potential was tried on them.

The data grows, so the rule reads nothing but a relaxation's own kind and seed: whatever is added later, nothing
that was tested on is ever trained on.
"""

import re
from collections.abc import Iterable

from bptt_relax.io.relaxations import Relaxation
from bptt_relax.io.splits import Split, check_split
from bptt_relax.outcomes import InputError

UNSEEN = {
    "sub_As": "arsenic occurs nowhere else: a new element",
    "pairV_As": "arsenic occurs nowhere else: a new element",
    "VV": "the only cluster of vacancies: a new aggregate of something known",
    "hex_Si": "the self-interstitial at the hexagonal site: a new minimum",
    "tet_Si": "relaxes to the same minimum as hex_Si (equal energies within 1 meV)",
    "split100_Si": "relaxes to the same minimum as hex_Si (equal energies within 1 meV)",
}
"""Kinds that are never trained on, with the reason, chosen by chemistry and by where the reference method ends."""

# Ordered by family, so that every eighth kind samples vacancies, interstitials, substitutions and pairs alike.
SEEN = (
    *("V", "pairV_P", "pairV_B", "pairV_Ge", "pairV_C"),
    *("split110_Si", "split110_B", "split100_C", "bc_O", "tet_Al", "ffcd", "bulk"),
    *("sub_B", "sub_P", "sub_C", "sub_Al", "sub_Ge", "sub_O"),
    *("pair_P_P", "pair_Al_P", "pair_B_P", "pair_B_B", "pair_C_C", "pair_Ge_Ge"),
)
"""Kinds to learn from. The order is part of the rule: append, never reorder."""

# Over its seeds 0-7 each kind passes through every place once; over the kinds each seed does so three times.
_PLACES = ("train", "test", "validation", "train", "train", "train", "test", "train")


def part_of(relaxation: Relaxation) -> str:
    """The part of the split that a silicon defect belongs to.

    Args:
        relaxation: of `datasets.load("silicon-defects")`.

    Raises:
        InputError: its kind or seed is not one of this data set's.
    """
    if relaxation.kind in UNSEEN:
        return "unseen"
    seed = re.fullmatch(re.escape(relaxation.kind) + r"_s(\d+)", relaxation.group)
    if relaxation.kind not in SEEN or seed is None:
        raise InputError(
            f"relaxation {relaxation.name}: kind {relaxation.kind} with group {relaxation.group} is not part of the "
            "silicon data; use io.splits.split for other data"
        )
    return _PLACES[(SEEN.index(relaxation.kind) + int(seed[1])) % len(_PLACES)]


def split(relaxations: Iterable[Relaxation], *, level: str | None = "p32") -> Split:
    """The default split of the silicon defects: 5/8 train, 1/8 validation, 2/8 test, and the unseen kinds.

    Args:
        relaxations: of `datasets.load("silicon-defects")`.
        level: which k points; a start computed at both levels would otherwise count twice. None takes all.

    Raises:
        InputError: a relaxation is not part of the silicon data.
    """
    chosen = sorted(
        (r for r in relaxations if level is None or r.info.get("level") == level), key=lambda r: r.name
    )
    names: dict[str, list[str]] = {part: [] for part in Split._fields}
    for relaxation in chosen:
        names[part_of(relaxation)].append(relaxation.name)
    division = Split(**{part: tuple(members) for part, members in names.items()})
    check_split(chosen, division)
    return division


def twins(relaxations: Iterable[Relaxation]) -> list[tuple[Relaxation, Relaxation]]:
    """The same start relaxed with one k point (p32) and with the dense mesh (d32): what the labels are worth.

    Args:
        relaxations: of `datasets.load("silicon-defects")`.
    """
    levels: dict[str, dict[str, Relaxation]] = {}
    for relaxation in relaxations:
        levels.setdefault(relaxation.group, {})[relaxation.info["level"]] = relaxation
    return [(both["p32"], both["d32"]) for _, both in sorted(levels.items()) if {"p32", "d32"} <= set(both)]
