"""Starting structures: strained hosts, breathing neighbors, rattled atoms; the same ones for the same seed."""

import hashlib
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from bptt_relax.datasets.generation import defects
from bptt_relax.outcomes import InputError

CLOSEST = 1.1
"""angstrom; atoms closer than this are no start for anything."""
ATTEMPTS = 20


class Start(NamedTuple):
    """A structure to relax.

    Attributes:
        atoms: the structure.
        rattle: standard deviation of the random displacements, angstrom.
        breathe: by which fraction the neighbors of the defect were moved out.
        strain: of the host's lattice constant.
    """

    atoms: Atoms
    rattle: float
    breathe: float
    strain: float


def draw(
    host: Atoms,
    defect: str,
    seed: int,
    *,
    rattles: tuple[float, ...] = (0.02, 0.05, 0.08, 0.12),
    largest_breathing: float = 0.12,
    largest_strain: float = 0.015,
) -> Start:
    """One start. Seeds that are multiples of three are unstrained, even ones don't breathe.

    Args:
        host: periodic supercell.
        defect: see `defects`.
        seed: another seed, another start.
        rattles: standard deviations to choose from, angstrom.
        largest_breathing: of the neighbors of the defect, fraction of their distance.
        largest_strain: of the host.

    Raises:
        InputError: an impossible defect, or no start without overlapping atoms was found.
    """
    name = int.from_bytes(hashlib.sha256(defect.encode()).digest()[:4], "big")
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, name, attempt])
        strain = 0.0 if seed % 3 == 0 else float(rng.uniform(-largest_strain, largest_strain))
        strained = host.copy()
        strained.set_cell(host.cell.array * (1 + strain), scale_atoms=True)
        atoms, center = defects.create(strained, defect, rng)
        rattle = float(rng.choice(rattles))
        breathe = float(rng.uniform(-largest_breathing, largest_breathing)) if seed % 2 else 0.0
        if breathe:
            away, lengths = find_mic(atoms.positions - center, atoms.cell, pbc=True)
            shell = (lengths > 0.5) & (lengths < 1.3 * lengths[lengths > 0.5].min())
            atoms.positions[shell] += breathe * away[shell]
        atoms.positions += rng.normal(scale=rattle, size=atoms.positions.shape)
        if len(atoms) < 2 or _closest(atoms) >= CLOSEST:
            return Start(atoms, rattle, breathe, strain)
    raise InputError(
        f"defect {defect}, seed {seed}: atoms overlap in each of {ATTEMPTS} starts; take a larger host"
    )


def _closest(atoms: Atoms) -> float:
    distances = atoms.get_all_distances(mic=True)
    return float(distances[np.triu_indices(len(atoms), 1)].min())
