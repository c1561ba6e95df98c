"""Rotated copies of labelled frames, for models to which a rotated structure is a new one."""

from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from bptt_relax._types import PyTree
from bptt_relax.training.objectives import LabelledFrame

Rotations = Literal["none", "cubic", "any"]
"""Which proper rotations: none, the 24 that bring a cube onto itself, or any."""


def draw_rotations(kind: Rotations, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random proper rotations, uniform within their kind: (count, 3, 3), to be multiplied from the right."""
    if kind == "none":
        return np.broadcast_to(np.eye(3), (count, 3, 3))
    if kind == "cubic":
        group = Rotation.create_group("O").as_matrix()
        return np.rint(group[rng.integers(len(group), size=count)])
    return Rotation.random(count, rng).as_matrix()


def rotate(batch: LabelledFrame, rotations: np.ndarray) -> LabelledFrame:
    """The same frames, each as its rotation leaves it: positions, cell and forces, and the neighbors' own record.

    Args:
        batch: stacked frames, leaves in numpy, no component held.
        rotations: (K, 3, 3).
    """
    system = batch.system

    def turn(rows: PyTree) -> np.ndarray:
        return (rows @ rotations).astype(rows.dtype)

    candidates = system.candidates
    if candidates is not None:
        candidates = candidates._replace(origin=turn(candidates.origin), cell=turn(candidates.cell))
    return batch._replace(
        positions=turn(batch.positions),
        forces=turn(batch.forces),
        system=system._replace(cell=turn(system.cell), candidates=candidates),
    )
