"""Relaxations that were stopped and started again: parts in several files, one relaxation."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bptt_relax.io import geometry
from bptt_relax.io.copies import are_copies, first_copies
from bptt_relax.io.problems import Problem, safe_name
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.systems import Structure

_NEXT = 0.5
"""angstrom; within one folder the next part starts this close to where the last one stopped, perhaps one step on."""
_AGAIN = 1e-3
"""angstrom; closer, the restart computes once more what was computed last."""


class Part(NamedTuple):
    """A relaxation as read from one file.

    Attributes:
        relaxation: as assembled.
        problems: found so far.
        finished: whether the output has its regular end; None where that can't be told.
        tag: of a run among several in a folder.
    """

    relaxation: Relaxation
    problems: list[Problem]
    finished: bool | None = None
    tag: str = ""

    @property
    def folder(self) -> Path:
        """Where the file is."""
        source = Path(str(self.relaxation.info["source"]))
        return source if self.relaxation.info.get("is_pair") else source.parent


def join(parts: Sequence[Part]) -> list[Part]:
    """Put parts together whose output goes on where another ends.

    Parts are joined where programs wrote both with the same method; what merely starts where another ends (without
    anything that says how it was computed) stays on its own, and grouping keeps it in one part of a split.

    Args:
        parts: in the order in which they were read.

    Returns:
        The same, joined parts in the place of their first.
    """
    following = _following(parts)
    preceded = set(following.values())
    joined = []
    for k, part in enumerate(parts):
        if k in preceded:
            continue
        chain = [k]
        while chain[-1] in following and following[chain[-1]] not in chain:
            chain.append(following[chain[-1]])
        joined.append(part if len(chain) == 1 else _joined([parts[i] for i in chain]))
    return joined


def _following(parts: Sequence[Part]) -> dict[int, int]:
    """Which part goes on with which: only where exactly one does, and with exactly one."""
    alike: dict[bytes, list[int]] = {}
    for k, part in enumerate(parts):
        if all(geometry.measurable(f) for f in (part.relaxation.frames[0], part.relaxation.relaxed)):
            alike.setdefault(part.relaxation.relaxed.species.tobytes(), []).append(k)
    next_of: dict[int, list[int]] = {}
    for members in alike.values():
        starts = [parts[k].relaxation.frames[0] for k in members]
        ends = [parts[k].relaxation.relaxed for k in members]
        place = first_copies([*ends, *starts])
        starting: dict[int, list[int]] = {}
        for k, first in zip(members, place[len(members) :], strict=True):
            starting.setdefault(first, []).append(k)
        for i, k in enumerate(members):
            for other in starting.get(place[i], ()):
                if other != k and _goes_on(parts[k], parts[other]):
                    next_of.setdefault(k, []).append(other)
        for i, k in enumerate(members):
            tagged = [
                other
                for j, other in enumerate(members)
                if _is_next(parts[k], parts[other]) and _close(ends[i], starts[j])
            ]
            next_of[k] = list(dict.fromkeys([*next_of.get(k, []), *tagged]))
    single = {k: others[0] for k, others in next_of.items() if len(others) == 1}
    taken = list(single.values())
    return {
        k: other
        for k, other in single.items()
        # Two that come back to where they began would follow each other forever.
        if taken.count(other) == 1 and single.get(other) != k
    }


def _goes_on(part: Part, other: Part) -> bool:
    a, b = part.relaxation, other.relaxation
    return (
        b.calculation.continues(a.calculation)
        and np.array_equal(a.initial.free, b.initial.free)
        # Neither a copy nor a way back.
        and not are_copies(b.relaxed, a.frames[0])
        and not are_copies(a.frames[0], b.frames[0])
    )


def _is_next(part: Part, other: Part) -> bool:
    """Whether tags say so: relax1 and relax2, or the last tag and none, of one folder."""
    a, b = part.relaxation, other.relaxation
    if not part.tag or part.folder != other.folder or not np.array_equal(a.initial.free, b.initial.free):
        return False
    stem, number = _numbered(part.tag)
    return number is not None and (stem, number + 1) == _numbered(other.tag)


def _numbered(tag: str) -> tuple[str, int | None]:
    stem = tag.rstrip("0123456789")
    digits = tag[len(stem) :]
    return stem, int(digits) if 0 < len(digits) < 9 else None


def _close(end: Structure, start: Structure, distance: float = _NEXT) -> bool:
    if np.abs(end.cell - start.cell).max() > distance:
        return False
    return bool(np.linalg.norm(geometry.displacement(end, start), axis=1).max() < distance)


def _joined(parts: list[Part]) -> Part:
    whole, problems = parts[0].relaxation, list(parts[0].problems)
    for part in parts[1:]:
        whole = _append(whole, part.relaxation)
        problems += part.problems
    name = parts[0].relaxation.name
    if parts[0].tag:
        name = safe_name(name.removesuffix(safe_name(f"-{parts[0].tag}"))) or name
    listed = " and then ".join(Path(str(part.relaxation.info["source"])).name for part in parts)
    text = f"restarted ({listed}): one relaxation of {len(whole.frames)} steps"
    problems.append(Problem(str(parts[-1].relaxation.info["source"]), name, text, fatal=False))
    group = name if whole.group == whole.name else whole.group
    whole = whole._replace(
        name=name, group=group, frames=tuple(frame._replace(name=name) for frame in whole.frames)
    )
    return Part(whole, problems, parts[-1].finished, parts[-1].tag)


def _append(a: Relaxation, b: Relaxation) -> Relaxation:
    """One relaxation of two, the second going on where the first ends."""
    again = len(a.frames) > 1 and _close(a.relaxed, b.frames[0], _AGAIN)
    kept = len(a.frames) - int(again)
    images = np.round(geometry.fractional_displacement(a.relaxed, b.frames[0], minimum_image=False))
    images = np.where(a.relaxed.pbc, images, 0.0)
    moved = tuple(frame._replace(positions=frame.positions - images @ frame.cell) for frame in b.frames)
    return a._replace(
        frames=(*a.frames[:kept], *moved),
        energies=_both(a.energies, b.energies, kept, len(moved)),
        forces=_both(a.forces, b.forces, kept, len(moved)),
        stresses=_both(a.stresses, b.stresses, kept, len(moved)),
        converged=b.converged,
        info={**a.info, **b.info},
        calculation=b.calculation,
    )


def _both(a: np.ndarray | None, b: np.ndarray | None, kept: int, more: int) -> np.ndarray | None:
    """Labels of both parts, NaN where one has none."""
    if a is None and b is None:
        return None
    shape = (a if a is not None else b).shape[1:]  # pyright: ignore[reportOptionalMemberAccess]
    first = np.full((kept, *shape), np.nan) if a is None else a[:kept]
    second = np.full((more, *shape), np.nan) if b is None else b
    return np.concatenate([first, second])
