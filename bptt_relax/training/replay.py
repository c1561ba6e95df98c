"""Replay: staying close to the pretrained model on structures it knew, whatever is learned meanwhile.

The pretrained model's own energies, forces and stresses are the labels, so replay needs no data. The crystals are
`datasets.prototypes.REPLAY`, of which none is among those that judge what was forgotten.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ase import Atoms
from jax import lax

from bptt_relax import losses, neighbors, trees
from bptt_relax._types import Array, Energy, Forces, Params, Positions, Stress
from bptt_relax.analysis import probe
from bptt_relax.datasets import prototypes
from bptt_relax.outcomes import Outcome
from bptt_relax.potentials import Potential, Prediction
from bptt_relax.relax import Theta
from bptt_relax.systems import System
from bptt_relax.training.train_step import Objective

VOLUMES = (0.91, 0.97, 1.03, 1.09)
"""In units of the measured one."""
SEPARATIONS = (0.55, 0.75, 0.95)
"""Of pairs, in units of the sum of the covalent radii."""


class ReplayFrame(NamedTuple):
    """A structure and what the pretrained model says about it.

    Attributes:
        positions: (N, 3) angstrom.
        energy: () eV, or None where the potential has none.
        forces: (N, 3) eV/angstrom.
        stress: (3, 3) eV/angstrom^3, or None where the potential has none.
        system: the structure, with neighbors.
    """

    positions: Positions
    energy: Energy | None
    forces: Forces
    stress: Stress | None
    system: System


def record(potential: Potential, params: Params, without: Iterable[frozenset[int]] = ()) -> list[ReplayFrame]:
    """Ask the pretrained model about every crystal of the replay set that it covers.

    Args:
        potential: the model's functions.
        params: of the pretrained model.
        without: sets of atomic numbers; crystals made of exactly one of them are left out.
    """
    crystals = prototypes.covered(prototypes.REPLAY, potential.elements, set(without))
    structures: list[Atoms] = []
    for index, crystal in enumerate(crystals):
        atoms = prototypes.atoms(crystal)
        structures += probe.forms(atoms, index, num_rattled=4, volumes=VOLUMES)
        structures += [probe.dimer(probe.closest_pair(atoms), x) for x in SEPARATIONS]
    if not structures:
        return []
    positions, system = probe.stack(structures, potential.graph)

    @jax.jit
    def ask(params: Params, structures: tuple[Positions, System]) -> Prediction:
        return lax.map(lambda structure: _predict(potential, params, *structure)[0], structures)

    said = ask(params, (positions, system))
    stacked = ReplayFrame(positions, said.energy, said.forces, said.stress, system)
    return [trees.take(stacked, index) for index in range(len(structures))]


def agreement(potential: Potential, *, delta: float = 0.1) -> Objective:
    """Huber error of the forces, energy and stress of one structure against the recorded ones.

    Args:
        potential: to be trained.
        delta: where the loss turns linear, eV/angstrom.
    """

    def loss(theta: Theta, frame: ReplayFrame) -> tuple[Array, Array]:
        here, overflow = _predict(potential, theta.potential, frame.positions, frame.system)
        total = losses.force_huber(here.forces, frame.forces, frame.system, delta=delta)
        if here.energy is not None and frame.energy is not None:
            count = jnp.maximum(jnp.sum(frame.system.mask), 1)
            total = total + losses.huber(losses.PER_ATOM * (here.energy - frame.energy) / count, delta)
            if here.stress is not None and frame.stress is not None:
                total = total + losses.virial_huber(here.stress, frame.stress, frame.system, delta=delta)
        outcome = jnp.where(overflow, Outcome.STALE_NEIGHBORS, Outcome.CONVERGED)
        return total, outcome.astype(jnp.int32)

    return Objective(jax.value_and_grad(loss, has_aux=True))


def _predict(
    potential: Potential, params: Params, positions: Positions, system: System
) -> tuple[Prediction, Array]:
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    return potential.apply(params, positions, system, graph), graph.overflow
