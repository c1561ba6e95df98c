"""Relaxations to extended XYZ, in the form that `read_relaxations` reads."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase.io import write

from bptt_relax.io.atoms import CALCULATION_PREFIX, to_atoms
from bptt_relax.io.calculation import WRITTEN
from bptt_relax.io.problems import refuse_existing
from bptt_relax.io.relaxations import Relaxation


def write_relaxations(path: Path | str, relaxations: Iterable[Relaxation], *, replace: bool = False) -> None:
    """Write every step with its labels; name, group, kind, convergence and method go into the comment line.

    Args:
        path: of the extended XYZ file.
        relaxations: to write, one after the other.
        replace: write over a file that is there.

    Raises:
        InputError: the file exists and may not be replaced.
    """
    if not replace:
        refuse_existing(path)
    frames = []
    for r in relaxations:
        made = {key: getattr(r.calculation, key) for key in WRITTEN}
        for t, frame in enumerate(r.frames):
            atoms = to_atoms(
                frame,
                energy=None if r.energies is None or np.isnan(r.energies[t]) else float(r.energies[t]),
                forces=None if r.forces is None or np.isnan(r.forces[t]).all() else r.forces[t],
                stress=None if r.stresses is None or np.isnan(r.stresses[t]).all() else r.stresses[t],
            )
            atoms.info |= {"job": r.name, "group": r.group, "kind": r.kind, "frame": t}
            atoms.info |= {
                CALCULATION_PREFIX + key: value for key, value in made.items() if value is not None
            }
            if r.converged is not None:
                atoms.info["converged"] = r.converged
            frames.append(atoms)
    write(path, frames, format="extxyz")
