"""A potential under test: its structures, and what it says about them in double precision."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii

from bptt_relax import neighbors, systems
from bptt_relax._types import Array, Params, PyTree
from bptt_relax.analysis import Check, check_potential
from bptt_relax.analysis._check import to_device, to_host
from bptt_relax.io import to_structure
from bptt_relax.neighbors import Capacity
from bptt_relax.potentials import Potential, Prediction
from bptt_relax.relax import Relaxation, Theta, cap_displacement, chain, momentum, relaxation
from bptt_relax.systems import Layout, System
from bptt_relax.trees import safe_sqrt
from bptt_relax.unrolling import Unrolled

SKIN = 0.4
"""Of neighbor lists, angstrom."""


class Answer(NamedTuple):
    """A prediction on the host, without padding.

    Attributes:
        energy: eV; NaN where the potential has none.
        forces: (n, 3) eV/angstrom.
        stress: (3, 3) eV/angstrom^3, or None.
        padded_forces: (N - n, 3) eV/angstrom.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    padded_forces: np.ndarray


class Relaxing(NamedTuple):
    """A short relaxation and a loss of where it ends.

    Attributes:
        relaxation: momentum with a cap.
        theta: everything learnable.
        positions: (N, 3) angstrom, the start; one atom is padding.
        system: the structure.
        loss: (theta, result, system) -> mass-weighted distance from a point nearby, sqrt(u) * angstrom.
        gradients: what tests have found already, by adjoint.
    """

    relaxation: Relaxation
    theta: Theta
    positions: Array
    system: System
    loss: Callable
    gradients: dict[str, PyTree]


class Subject:
    """A potential with parameters, and how to ask it.

    Attributes:
        potential: the potential.
        params: its parameters, on the host.
        atoms: a strained, rattled structure without symmetry.
    """

    def __init__(self, potential: Potential, params: Params, atoms: Atoms):
        self.potential, self.params, self.atoms = potential, to_host(params), atoms

        @jax.jit
        def predict(params, positions, system):
            graph = neighbors.refresh(system.candidates, positions, system.cell)
            return potential.apply(params, positions, system, graph)

        self._predict = predict

    def layout(self, *structures: Atoms, extra_atoms: int = 0, headroom: float = 1.0) -> Layout:
        """A layout that holds all of these structures.

        Args:
            *structures: to hold.
            extra_atoms: padding.
            headroom: factor on the lengths of all lists.
        """
        found = systems.plan_layout(
            [to_structure(atoms, "case") for atoms in structures], self.potential.graph, skin=SKIN
        )
        capacity = Capacity(*(int(headroom * length) for length in found.capacity))
        return Layout(found.num_atoms + extra_atoms, capacity)

    def prepare(self, atoms: Atoms, layout: Layout | None = None):
        """Positions and system on the device, in JAX's present precision."""
        return systems.prepare(to_structure(atoms, "case"), self.potential.graph, layout, skin=SKIN)

    def raw(self, atoms: Atoms, layout: Layout | None = None, *, double: bool = True) -> Prediction:
        """The prediction as it comes, padding included."""
        positions, system = self.prepare(atoms, layout)
        return self._predict(to_device(self.params, double=double), positions, system)

    def ask(self, atoms: Atoms, layout: Layout | None = None) -> Answer:
        """The prediction on the host."""
        found = self.raw(atoms, layout)
        forces, n = np.asarray(found.forces), len(atoms)
        stress = None if found.stress is None else np.asarray(found.stress)
        energy = float("nan") if found.energy is None else float(found.energy)
        return Answer(energy, forces[:n], stress, forces[n:])

    @cached_property
    def checks(self) -> dict[str, Check]:
        """All checks of `analysis.check_potential`."""
        positions, system = self.prepare(self.atoms)
        return {
            check.name: check for check in check_potential(self.potential, self.params, positions, system)
        }

    @cached_property
    def relaxation(self) -> Relaxing:
        """A relaxation of the structure."""
        rule = chain(momentum(2e-3, 0.5), cap_displacement(0.1))
        positions, system = self.prepare(self.atoms, self.layout(self.atoms, extra_atoms=1))
        target = np.asarray(positions) + 0.05 * np.random.default_rng(5).normal(size=positions.shape)

        def loss(theta: Theta, result: Unrolled, system: System):
            del theta
            end = result.state.positions
            d = jnp.where(system.free, end - jnp.asarray(target, end.dtype), 0.0)
            return safe_sqrt(jnp.sum(system.masses[:, None] * d**2))

        theta = Theta(to_device(self.params, double=True), rule.hyper)
        return Relaxing(relaxation(self.potential, rule), theta, positions, system, loss, {})

    def pair(self, params: Params, positions, system, *, lean: bool = False):
        """Energy and forces as one function of parameters and positions, to be differentiated."""
        apply = self.potential.apply_lean if lean else self.potential.apply
        assert apply is not None
        found = apply(params, positions, system, neighbors.refresh(system.candidates, positions, system.cell))
        rng = np.random.default_rng(11)
        weights = jnp.asarray(rng.normal(size=positions.shape), positions.dtype)
        value = jnp.sum(weights * found.forces)
        return value if found.energy is None else value + found.energy


def make_atoms(elements: Sequence[int], smallest_height: float, seed: int = 0) -> Atoms:
    """A diamond-like structure with a vacancy, strained and rattled: no symmetry is left that could hide an error.

    Args:
        elements: atomic numbers the potential covers; silicon where empty. The first three are used.
        smallest_height: the cell is repeated until no height is below this, angstrom.
        seed: of the rattle.
    """
    rng = np.random.default_rng(seed)
    chosen = list(elements) or [14]
    # Silicon first where the model covers it: this is its structure.
    chosen = sorted(chosen, key=lambda z: z != 14)[:3]
    edge = 4 / np.sqrt(3) * 2 * max(float(covalent_radii[z]) for z in chosen) * 1.04
    atoms = bulk("Si", cubic=True, a=edge)
    atoms = atoms.repeat([max(1, int(np.ceil(1.05 * smallest_height / edge)))] * 3)
    del atoms[0]
    kinds = np.resize(chosen, len(atoms)) if len(chosen) > 1 else np.full(len(atoms), chosen[0])
    atoms.numbers[:] = kinds
    deformation = np.eye(3) + 0.02 * np.array([[1.0, 0.3, -0.2], [0.0, -0.6, 0.4], [0.0, 0.0, 0.8]])
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    atoms.positions += 0.06 * rng.normal(size=(len(atoms), 3))
    return atoms
