"""The structures and the relaxation that everything is measured on."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk

from benchmarks.contract import Case
from bptt_relax import models, relax, systems
from bptt_relax._types import Array, Positions
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import Structure, System

STEP_SIZE, DECAY = 0.03, 0.7
"""Heavy ball, angstrom^2/eV and a pure number: below the stability limit of both models, converged in 150 steps."""

_REPEATS = {8: (1, 1, 1), 32: (2, 2, 1), 64: (2, 2, 2), 216: (3, 3, 3), 512: (4, 4, 4), 1000: (5, 5, 5)}


class Problem(NamedTuple):
    """A case, ready to run.

    Attributes:
        potential: the model.
        relaxation: the model under the heavy ball; it never stops early, so every run makes all its steps.
        theta: pretrained parameters.
        positions: (N, 3) start, angstrom.
        target: (N, 3) what the loss compares with, angstrom.
        system: the structure, with neighbors.
    """

    potential: Potential
    relaxation: Relaxation
    theta: Theta
    positions: Positions
    target: Array
    system: System


def silicon(atoms: int) -> tuple[Atoms, np.ndarray]:
    """Strained, rattled diamond silicon, and the (N, 3) sites its atoms were rattled from.

    Strained because an ideal vacancy may be a minimum already: nothing would move and nothing would depend on the
    parameters.

    Raises:
        ValueError: no cell with this number of atoms is prepared.
    """
    sites = atoms + 1 if atoms + 1 in _REPEATS else atoms
    if sites not in _REPEATS:
        raise ValueError(f"no silicon cell of {atoms} atoms; there are {sorted(_REPEATS)} and one less")
    crystal = bulk("Si", cubic=True, a=5.431).repeat(_REPEATS[sites])
    if sites > atoms:
        del crystal[0]
    deformation = np.eye(3) + 0.01 * np.array([[1.0, 0.3, -0.2], [0.0, -0.6, 0.4], [0.0, 0.0, 0.8]])
    crystal.set_cell(crystal.cell.array @ deformation, scale_atoms=True)
    ideal = crystal.positions.copy()
    rattle = 0.05 * np.random.default_rng(0).normal(size=ideal.shape)
    # The center of mass stays: a relaxation could not bring it back.
    crystal.positions += rattle - rattle.mean(axis=0)
    return crystal, ideal


def problem(case: Case) -> Problem:
    """Everything a program needs, on the device, in JAX's default float type."""
    potential, params = models.load(case.model)
    atoms, ideal = silicon(case.atoms)
    structure = Structure(
        name=case.name,
        species=atoms.numbers,
        masses=atoms.get_masses(),
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        free=np.ones((len(atoms), 3), bool),
    )
    # Room for the neighbors at both ends: as the strain of the rattling goes, whole shells come within a cutoff.
    layout = systems.plan_layout([structure, structure._replace(positions=ideal)], potential.graph)
    positions, system = systems.prepare(structure, potential.graph, layout)
    rule = relax.momentum(STEP_SIZE, DECAY)
    return Problem(
        potential=potential,
        relaxation=relax.relaxation(potential, rule),
        theta=Theta(params, rule.hyper),
        positions=positions,
        target=positions.at[:].set(ideal),
        system=system,
    )
