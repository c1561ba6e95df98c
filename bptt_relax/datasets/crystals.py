"""How the bundled crystals are split, fixed before any potential was tried on them.

A crystal is one phase of one compound. All its relaxations end at the same structure, so they stay together whatever
their start and whether their cell was free.
"""

from collections.abc import Iterable

from bptt_relax.io.relaxations import Relaxation, at_relaxed_cell
from bptt_relax.io.splits import Split, check_split
from bptt_relax.outcomes import InputError

# Ordered by family, so that every third kind samples elements, compounds of group IV, III-V compounds and oxides alike.
KINDS = (
    *("C_dia", "Si_dia", "Si_lons", "Si_bc8", "Si_betaSn", "Ge_dia"),
    *("SiC_3C", "SiC_2H", "SiGe_zb", "SiGe_alloy8", "GeC_zb"),
    *("AlP_zb", "AlP_wz", "AlAs_zb", "BP_zb", "BAs_zb"),
    *("SiO2_quartz", "SiO2_crist", "SiP2_pyr"),
)
"""The crystals. The order is part of the rule: append, never reorder."""

# Over the three folds each crystal is tested on once.
_PLACES = ("train", "test", "train", "validation", "test", "train")
FOLDS = 3

MOVABLE = (
    *("Si_lons", "Si_bc8", "SiC_2H", "AlP_wz", "SiGe_alloy8"),
    *("SiO2_quartz", "SiO2_crist", "SiP2_pyr"),
)
"""Crystals whose atoms have places that symmetry does not fix: what they do in a given cell says something."""


def part_of(relaxation: Relaxation, *, fold: int = 0) -> str:
    """The part of the split that a crystal belongs to.

    Args:
        relaxation: of `datasets.load("crystals")`.
        fold: of `FOLDS`.

    Raises:
        InputError: it is not one of this data set's.
    """
    if relaxation.kind not in KINDS:
        raise InputError(
            f"relaxation {relaxation.name}: {relaxation.kind} is not part of the crystals; use io.splits.split for "
            "other data"
        )
    return _PLACES[(KINDS.index(relaxation.kind) + fold) % len(_PLACES)]


def split(relaxations: Iterable[Relaxation], *, fold: int = 0) -> Split:
    """The default split of the crystals: half of them train, a sixth validation, a third test.

    Args:
        relaxations: of `datasets.load("crystals")`, or made of those.
        fold: another number below `FOLDS`, another third to test on.

    Raises:
        InputError: a relaxation is not part of the data, or there is no such fold.
    """
    if not 0 <= fold < FOLDS:
        raise InputError(f"no fold {fold} of the crystals; there are 0 to {FOLDS - 1}")
    chosen = sorted(relaxations, key=lambda r: r.name)
    names: dict[str, list[str]] = {part: [] for part in Split._fields}
    for relaxation in chosen:
        names[part_of(relaxation, fold=fold)].append(relaxation.name)
    division = Split(**{part: tuple(members) for part, members in names.items()})
    check_split(chosen, division)
    return division


def in_given_cells(relaxations: Iterable[Relaxation]) -> list[Relaxation]:
    """Relaxations of the atoms alone: those the reference made, and in its relaxed cells those of `MOVABLE` crystals.

    Args:
        relaxations: of `datasets.load("crystals")`.
    """
    found = []
    for r in relaxations:
        if r.info.get("mode") == "relax":
            found.append(r)
        elif r.kind in MOVABLE:
            found.append(at_relaxed_cell(r)._replace(name=r.name.replace("_vcrelax_", "_atoms_")))
    return found
