"""Splits by relaxation, never by frame: what shares a group stays together.

Frames of one relaxation differ by hundredths of an angstrom and relaxations from one parent end in the same
minimum; a split that tears them apart tests memory.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError

MIN_RELAXATIONS = 5
"""Fewer groups than this can't be split three ways in a way that means anything."""


class Split(NamedTuple):
    """Names of relaxations by what they are used for.

    Attributes:
        train: to learn from.
        validation: to choose steps, rates and when to stop.
        test: looked at once; other relaxations of kinds that were trained on.
        unseen: looked at once; whole kinds that were never trained on.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    unseen: tuple[str, ...] = ()

    def part_of(self, name: str) -> str | None:
        """The part that a relaxation is in, or None."""
        return next((part for part in self._fields if name in getattr(self, part)), None)


def split(
    relaxations: Sequence[Relaxation],
    *,
    validation: float = 0.15,
    test: float = 0.2,
    unseen: Iterable[str] = (),
    seed: int = 0,
    keep: Split | None = None,
) -> Split:
    """Split by group, stratified by kind, the same for the same names and seed.

    Args:
        relaxations: every one has a name, a group and a kind.
        validation: share of the groups to validate with.
        test: share of the groups to test with.
        unseen: kinds to hold out entirely.
        seed: another seed, another draw.
        keep: an earlier split of a smaller set: what it assigned stays where it is, so that a structure that
            was tested on is never trained on later.

    Raises:
        InputError: names are doubled, shares are impossible, a held-out kind isn't there or shares a group with
            a kind that is trained on, or there are too few groups.
    """
    check_names(relaxations)
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise InputError(
            f"validation={validation} and test={test} must not be negative and must leave something to train on"
        )
    unseen = set(unseen)
    kinds = {r.kind for r in relaxations}
    if unseen - kinds:
        raise InputError(
            f"unseen kinds {sorted(unseen - kinds)} are not in the data; kinds are {sorted(kinds)}"
        )
    held = {r.group for r in relaxations if r.kind in unseen}
    torn = held & {r.group for r in relaxations if r.kind not in unseen}
    if torn:
        raise InputError(
            f"groups {sorted(torn)} hold kinds inside and outside of unseen={sorted(unseen)}: hold out all or none"
        )
    part = dict.fromkeys(held, "unseen") | _kept(relaxations, keep)
    groups = [g for g in _stratified(relaxations, seed) if part.get(g) != "unseen"]
    if len(groups) < MIN_RELAXATIONS:
        raise InputError(
            f"{len(groups)} groups of relaxations are too few to train, validate and test on (at least "
            f"{MIN_RELAXATIONS}): use splits.leave_one_out, or add relaxations"
        )
    for name, share in (("test", test), ("validation", validation)):
        wanted = max(1, round(share * len(groups))) if share > 0 else 0
        missing = wanted - sum(part.get(g) == name for g in groups)
        undecided = [g for g in groups if g not in part]
        part.update(dict.fromkeys(_spread(undecided, missing), name))
    return _assemble(relaxations, lambda r: part.get(r.group, "train"))


def folds(relaxations: Sequence[Relaxation], count: int, *, seed: int = 0) -> list[Split]:
    """Cross-validation: every group is tested on once. Nothing is validated on.

    Args:
        relaxations: every one has a name and a group.
        count: number of folds.
        seed: another seed, another draw.

    Raises:
        InputError: names are doubled, or there are fewer groups than folds.
    """
    check_names(relaxations)
    groups = _stratified(relaxations, seed)
    if not 2 <= count <= len(groups):
        raise InputError(
            f"{count} folds need at least 2 folds and as many groups; there are {len(groups)} groups"
        )
    fold = {group: k % count for k, group in enumerate(groups)}
    return [
        _assemble(relaxations, lambda r, k=k: "test" if fold[r.group] == k else "train") for k in range(count)
    ]


def leave_one_out(relaxations: Sequence[Relaxation]) -> list[Split]:
    """One fold per group: what to do with very few relaxations.

    Raises:
        InputError: there are fewer than two groups.
    """
    return folds(relaxations, len({r.group for r in relaxations}))


def check_split(relaxations: Sequence[Relaxation], division: Split) -> None:
    """Refuse a split, wherever it comes from, that leaks from training into testing.

    Args:
        relaxations: what the names stand for.
        division: to check.

    Raises:
        InputError: a name is unknown or in two parts, a group is torn apart, or an unseen kind is trained on.
    """
    known = check_names(relaxations)
    parts: dict[str, set[str]] = {}
    kinds: dict[str, set[str]] = {part: set() for part in division._fields}
    seen: set[str] = set()
    for part in division._fields:
        for name in getattr(division, part):
            if name not in known:
                raise InputError(f"the split names {name}, which is not in the data")
            if name in seen:
                raise InputError(f"the split names {name} twice")
            seen.add(name)
            parts.setdefault(known[name].group, set()).add(part)
            kinds[part].add(known[name].kind)
    torn = {group: sorted(where) for group, where in parts.items() if len(where) > 1}
    if torn:
        listed = "; ".join(
            f"{group} ({sum(r.group == group for r in relaxations)} relaxations) in {' and '.join(where)}"
            for group, where in sorted(torn.items())
        )
        raise InputError(
            f"leakage: relaxations that share a parent are torn apart: {listed}. Split by group."
        )
    leaked = kinds["unseen"] & (kinds["train"] | kinds["validation"])
    if leaked:
        raise InputError(f"leakage: unseen kinds {sorted(leaked)} are trained or validated on")


def check_names(relaxations: Sequence[Relaxation]) -> dict[str, Relaxation]:
    """Relaxations by name.

    Raises:
        InputError: two have the same name, as frames of one relaxation passed off as several do.
    """
    known = {r.name: r for r in relaxations}
    if len(known) < len(relaxations):
        names = [r.name for r in relaxations]
        doubled = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"relaxations must have different names; doubled: {', '.join(doubled[:5])}")
    return known


def _stratified(relaxations: Sequence[Relaxation], seed: int) -> list[str]:
    """Groups ordered kind by kind, so that taking every k-th of them takes from every kind its share."""
    kind = {}
    for r in sorted(relaxations, key=lambda r: r.name):
        kind.setdefault(r.group, r.kind)
    return sorted(kind, key=lambda g: (_draw(seed, kind[g]), kind[g], _draw(seed, g), g))


def _draw(seed: int, text: str) -> bytes:
    """A number drawn by name: adding relaxations changes no other one's."""
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()


def _spread(items: list[str], count: int) -> list[str]:
    """``count`` items at even distances."""
    count = max(0, min(count, len(items)))
    return [items[int((k + 0.5) * len(items) / count)] for k in range(count)]


def _kept(relaxations: Sequence[Relaxation], keep: Split | None) -> dict[str, str]:
    part: dict[str, str] = {}
    if keep is None:
        return part
    for r in relaxations:
        before = keep.part_of(r.name)
        if before is not None and part.setdefault(r.group, before) != before:
            raise InputError(f"keep tears group {r.group} apart: it is in {part[r.group]} and {before}")
    return part


def _assemble(relaxations: Sequence[Relaxation], part_of) -> Split:
    names = {part: [] for part in Split._fields}
    for r in sorted(relaxations, key=lambda r: r.name):
        names[part_of(r)].append(r.name)
    return Split(**{part: tuple(members) for part, members in names.items()})
