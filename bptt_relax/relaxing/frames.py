"""What is written of a relaxed structure: everything its file said, at the place where it ended."""

import io
import re
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from bptt_relax.batches import Final
from bptt_relax.io import Found
from bptt_relax.io.atoms import possible_forces
from bptt_relax.outcomes import Outcome, printable
from bptt_relax.units import EV_PER_A3_IN_GPA

ENDINGS = {
    Outcome.CONVERGED: "converged",
    Outcome.RUNNING: "steps ran out",
    Outcome.NOT_FINITE: "forces not finite",
    Outcome.STALE_NEIGHBORS: "fell apart or collapsed",
}
"""How a relaxation ended, for people."""


def relaxed_frame(found: Found, final: Final, model: str) -> str:
    """One frame of extended XYZ with ``converged``, ``outcome``, ``energy``, ``fmax`` and ``steps`` in its comment.

    Args:
        found: the structure as its file gave it; constraints, tags and the like are kept.
        final: where it ended.
        model: name of the model.
    """
    atoms = _placed(found.atoms, final.structure.positions, final.structure.cell)
    atoms.info |= {
        "name": final.structure.name,
        "source": printable(found.source),
        "model": model,
        "converged": final.converged,
        "outcome": ENDINGS[final.outcome],
        "steps": final.steps,
        "fmax": final.max_force,
    }
    if final.max_stress is not None:
        atoms.info["smax_GPa"] = final.max_stress * EV_PER_A3_IN_GPA
    return _text([_labelled(atoms, final.energy)])


def write_path(file: Path, found: Found, final: Final) -> None:
    """Write every configuration on the way, with ``step``, ``energy`` and ``fmax``; complete or not at all.

    Args:
        file: extended XYZ.
        found: the structure as its file gave it.
        final: with its path.
    """
    if final.path is None:
        raise ValueError(f"structure {final.structure.name} has no path: relax with keep_path")
    frames = []
    for step, (positions, cell, energy, fmax) in enumerate(zip(*final.path, strict=True)):
        atoms = _placed(found.atoms, positions, cell if final.max_stress is not None else None)
        atoms.info |= {"name": final.structure.name, "step": step, "fmax": float(fmax)}
        frames.append(_labelled(atoms, float(energy)))
    temporary = file.with_name(f".{file.name}.part")
    temporary.write_text(_text(frames))
    temporary.replace(file)


def _placed(start: Atoms, positions: np.ndarray, cell: np.ndarray | None) -> Atoms:
    atoms = start.copy()
    # Labels of the start are none of the end.
    for key in possible_forces(atoms):
        del atoms.arrays[key]
    for key in [
        key for key in atoms.info if re.search("energy|stress|virial|force", str(key), re.IGNORECASE)
    ]:
        del atoms.info[key]
    atoms.set_positions(positions, apply_constraint=False)
    if cell is not None:
        # A vector that was made up for an axis without one stays out of the file.
        atoms.set_cell(np.where(np.any(start.cell.array, axis=1, keepdims=True), cell, 0.0))
    return atoms


def _labelled(atoms: Atoms, energy: float) -> Atoms:
    if np.isfinite(energy):
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def _text(frames: list[Atoms]) -> str:
    text = io.StringIO()
    write(text, frames, format="extxyz")
    return text.getvalue()
