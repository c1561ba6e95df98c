"""Where atoms end: the relaxed structures of every stage, and their distances from reference and defect."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bptt_relax.finetuning.measurement import Runs
from bptt_relax.io import geometry, write_relaxations
from bptt_relax.io.relaxations import Relaxation


def write(relaxations: Sequence[Relaxation], runs: Runs, folder: Path) -> None:
    """Write the relaxed structures of every stage, newest seed, for any viewer."""
    for stage, measured in runs.items():
        ends = []
        for r in relaxations:
            m = measured[-1][r.name]
            cell = r.relaxed.cell if m.relaxed.cell is None else m.relaxed.cell
            relaxed = r.relaxed._replace(positions=m.relaxed.positions, cell=cell)
            ends.append(Relaxation(r.name, r.group, r.kind, (relaxed,), converged=m.relaxed.converged))
        write_relaxations(folder / f"{stage}.extxyz", ends, replace=True)


def displacements(relaxations: Sequence[Relaxation], runs: Runs) -> list[dict]:
    """How far each atom ends from its place in the reference, and how far it is from the defect."""
    entries = []
    for r in sorted(relaxations, key=lambda r: r.name):
        entry = {
            "name": r.name,
            "distance": distance_from_defect(r).tolist(),
            "reference": _deviation(r.initial.positions, r.initial.cell, r).tolist(),
        }
        for stage, measured in runs.items():
            ends = [run[r.name].relaxed for run in measured]
            entry[stage] = np.mean([_deviation(e.positions, e.cell, r) for e in ends], axis=0).tolist()
        entries.append(entry)
    return entries


def distance_from_defect(relaxation: Relaxation) -> np.ndarray:
    """Distance of each atom of the relaxed structure from the defect, angstrom."""
    return np.linalg.norm(offset_from_defect(relaxation), axis=1)


def offset_from_defect(relaxation: Relaxation) -> np.ndarray:
    """Where each atom of the relaxed structure is, seen from the defect, (n, 3) angstrom.

    The defect's center is where the reference relaxation moved atoms most: the mean position weighted by the
    squared displacement, built around the atom that moved furthest.
    """
    relaxed, cell = relaxation.relaxed, relaxation.relaxed.cell
    moved = geometry.displacement(relaxation.initial, relaxation.relaxed, minimum_image=False)
    weight = np.sum((moved - moved.mean(axis=0)) ** 2, axis=1)
    around = relaxed.positions - relaxed.positions[weight.argmax()]
    around = around - np.rint(around @ np.linalg.inv(cell)) @ cell
    offset = around - np.average(around, axis=0, weights=weight**2 + 1e-30)
    return offset - np.rint(offset @ np.linalg.inv(cell)) @ cell


def _deviation(positions: np.ndarray, own_cell: np.ndarray | None, relaxation: Relaxation) -> np.ndarray:
    """Distance of each atom from its place in the reference, in the reference's cell."""
    cell = relaxation.relaxed.cell
    if own_cell is not None:
        positions = positions @ np.linalg.solve(own_cell, cell)
    d = positions - relaxation.relaxed.positions
    d = d - np.rint(d @ np.linalg.inv(cell)) @ cell
    return np.linalg.norm(d - d.mean(axis=0), axis=1)
