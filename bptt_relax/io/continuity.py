"""Are the steps of a relaxation in order, and of one relaxation only?"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bptt_relax.io import geometry
from bptt_relax.io.relaxations import Relaxation, largest_forces

_RISE = 0.1
"""Share of the range of energies; a smaller rise is noise or an ordinary trial step."""
_QUIET = 0.2
"""A relaxation has ended where the largest force (or the displacement) is less than this share of what follows."""
_DETOUR = 1.6
"""The way through the steps as they stand over the way through them by falling energy, beyond which they are mixed
up."""


class Break(NamedTuple):
    """Where another relaxation seems to begin.

    Attributes:
        step: its first.
        jump: largest displacement of an atom from the step before, angstrom.
        rise: of the energy, eV; NaN without energies.
    """

    step: int
    jump: float
    rise: float


def breaks(relaxation: Relaxation) -> list[Break]:
    """Steps at which another relaxation seems to begin: it had come to rest, and starts anew elsewhere.

    Args:
        relaxation: as read, all its steps.
    """
    return list(_breaks(relaxation)) if len(relaxation.frames) > 3 else []


def _breaks(r: Relaxation) -> Iterator[Break]:
    moved = [
        geometry.displacement(a, b, minimum_image=False) for a, b in zip(r.frames, r.frames[1:], strict=False)
    ]
    jumps = np.array([np.linalg.norm(d, axis=1).max() for d in moved])
    energies = np.full(len(r.frames), np.nan) if r.energies is None else r.energies
    known = energies[np.isfinite(energies)]
    scale = float(np.ptp(known)) if len(known) else np.nan
    # What a structure feels before and after: the force, or without forces how far it goes in one step.
    felt = np.append(jumps, 0.0) if r.forces is None else largest_forces(r)
    for t in range(1, len(r.frames) - 1):
        rise = float(energies[t + 1] - energies[t])
        before = jumps[t - 1] if r.forces is None else felt[t]
        came_to_rest = before < _QUIET * felt[t + 1]
        far = jumps[t] > 3 * np.median(jumps)
        if came_to_rest and far and not _explained(r, t, rise, moved[t], scale):
            yield Break(t + 1, float(jumps[t]), rise)


def _explained(r: Relaxation, t: int, rise: float, moved: np.ndarray, scale: float) -> bool:
    """Whether forces on the way from step t to the next make the energy change as it does: no other relaxation."""
    if not np.isfinite(rise) or rise > max(_RISE * scale, 1e-3):
        return False
    if r.forces is None or not np.isfinite(r.forces[t : t + 2]).all():
        return True
    work = float(0.5 * np.sum((r.forces[t] + r.forces[t + 1]) * moved))
    return abs(rise + work) <= 0.5 * max(abs(rise), abs(work))


def detour(relaxation: Relaxation) -> float:
    """How much longer the way through the steps is than through the same steps sorted by energy; 1 in order.

    Args:
        relaxation: with energies; without them, or with few steps, 1.
    """
    r = relaxation
    if r.energies is None or len(r.frames) < 4 or not np.isfinite(r.energies).all():
        return 1.0
    cell = r.frames[0].cell
    positions = np.stack([f.positions @ np.linalg.inv(f.cell) @ cell for f in r.frames])
    order = np.argsort(-r.energies, kind="stable")

    def length(path: np.ndarray) -> float:
        return float(np.linalg.norm(np.diff(path, axis=0), axis=(1, 2)).sum())

    way = length(positions[order])
    return length(positions) / way if way > 0 else 1.0


def are_mixed_up(relaxation: Relaxation) -> bool:
    """Whether the steps seem to be in another order than they were computed in."""
    r = relaxation
    if detour(r) < _DETOUR:
        return False
    assert r.energies is not None
    rises = np.diff(r.energies) > max(0.002 * float(np.ptp(r.energies)), 1e-4)
    return bool(rises.sum() > 0.2 * len(rises))
