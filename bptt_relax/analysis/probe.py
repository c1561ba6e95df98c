"""Structures of chemistry that a model was not tuned on: crystals squeezed and rattled, pairs pushed together.

All crystals share one padded size and all pairs another: two compilations serve every model that is compared.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from jax import lax

from bptt_relax import neighbors, systems
from bptt_relax._types import Params, Positions, PyTree
from bptt_relax.datasets import prototypes
from bptt_relax.datasets.prototypes import Crystal
from bptt_relax.io.atoms import to_structure
from bptt_relax.neighbors import GraphSpec
from bptt_relax.potentials import Potential
from bptt_relax.systems import System

VOLUMES = np.linspace(0.9, 1.1, 7)
"""Volumes of the equation of state, in units of the measured one."""
NUM_RATTLED = 3
"""Rattled and strained cells of each crystal."""
RATTLE = 0.1
"""Standard deviation of the displacements of rattled cells, angstrom: forces of about 1 eV/angstrom."""
STRAIN = 0.02
"""Standard deviation of the components of their strain."""
SEPARATIONS = np.linspace(0.5, 1.0, 6)
"""Distances of pairs, in units of the sum of the covalent radii."""

_SKIN = 0.01  # nothing moves


class Probe(NamedTuple):
    """The questions, prepared for one potential.

    Attributes:
        crystals: C of them.
        pairs: P pairs of atomic numbers.
        num_atoms: (C,) atoms per cell.
        volumes: (C, len(VOLUMES)) angstrom^3 per cell.
        solids: positions and systems, stacked: of each crystal the volumes, then the rattled cells.
        dimers: positions and systems, stacked: of each pair the separations. The second atom lies along +x.
    """

    crystals: tuple[Crystal, ...]
    pairs: tuple[tuple[int, int], ...]
    num_atoms: np.ndarray
    volumes: np.ndarray
    solids: tuple[Positions, System]
    dimers: tuple[Positions, System]

    @property
    def pair_names(self) -> list[str]:
        """What messages call the pairs."""
        return [f"{chemical_symbols[a]}-{chemical_symbols[b]}" for a, b in self.pairs]


class Answers(NamedTuple):
    """What one model says.

    Attributes:
        energies: (C, len(VOLUMES)) eV per atom; NaN where the model has none.
        forces: per crystal (NUM_RATTLED, n, 3) eV/angstrom.
        repulsion: (P, len(SEPARATIONS)) force that pushes the two atoms apart, eV/angstrom.
    """

    energies: np.ndarray
    forces: tuple[np.ndarray, ...]
    repulsion: np.ndarray


def build(crystals: Sequence[Crystal], pairs: Sequence[tuple[int, int]], spec: GraphSpec) -> Probe:
    """Prepare the questions.

    Args:
        crystals: at least one.
        pairs: of atomic numbers, beside the closest unlike (or only) pair of each crystal.
        spec: graph the potential asks for.
    """
    cells = [prototypes.atoms(crystal) for crystal in crystals]
    solids = [form for index, atoms in enumerate(cells) for form in forms(atoms, index)]
    named = (tuple(sorted(pair)) for pair in (*map(closest_pair, cells), *pairs))
    unique: tuple[tuple[int, int], ...] = tuple(dict.fromkeys((a, b) for a, b in named))
    dimers = [dimer(pair, x) for pair in unique for x in SEPARATIONS]
    return Probe(
        crystals=tuple(crystals),
        pairs=unique,
        num_atoms=np.array([len(atoms) for atoms in cells]),
        volumes=np.array([atoms.get_volume() * VOLUMES for atoms in cells]),
        solids=stack(solids, spec),
        dimers=stack(dimers, spec),
    )


def forms(atoms: Atoms, seed: int, num_rattled: int = NUM_RATTLED, volumes: Sequence[float] = tuple(VOLUMES)):
    """A crystal at several volumes, then rattled and strained.

    Args:
        atoms: the crystal.
        seed: of the rattling.
        num_rattled: how many rattled cells.
        volumes: in units of the present one.
    """
    found = []
    for volume in volumes:
        squeezed = atoms.copy()
        squeezed.set_cell(atoms.cell.array * volume ** (1 / 3), scale_atoms=True)
        found.append(squeezed)
    rng = np.random.default_rng([seed, num_rattled])
    for _ in range(num_rattled):
        rattled = atoms.copy()
        strain = rng.normal(scale=STRAIN, size=(3, 3))
        rattled.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        rattled.positions += rng.normal(scale=RATTLE, size=rattled.positions.shape)
        found.append(rattled)
    return found


def stack(structures: Sequence[Atoms], spec: GraphSpec) -> tuple[Positions, System]:
    """Positions and systems of one padded size, stacked along a leading axis; for positions that will not move."""
    hosts = [to_structure(atoms, str(atoms.symbols)) for atoms in structures]
    layout = systems.plan_layout(hosts, spec, skin=_SKIN)
    prepared = [systems.prepare(host, spec, layout, skin=_SKIN) for host in hosts]
    # In numpy: a program that joins hundreds of arrays takes longer to compile than all else here takes.
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *prepared)


def closest_pair(atoms: Atoms) -> tuple[int, int]:
    """Atomic numbers of the two closest unlike atoms; of an element, that element twice."""
    numbers = atoms.numbers
    if len(set(numbers.tolist())) == 1:
        return int(numbers[0]), int(numbers[0])
    distances = atoms.get_all_distances(mic=True)
    distances[numbers[:, None] == numbers[None]] = np.inf
    i, j = np.unravel_index(np.argmin(distances), distances.shape)
    return int(numbers[i]), int(numbers[j])


def dimer(pair: tuple[int, int], separation: float) -> Atoms:
    """Two atoms in empty space, ``separation`` times the sum of their covalent radii apart along x."""
    distance = separation * sum(covalent_radii[number] for number in pair)
    return Atoms(list(pair), positions=[[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])


def make_asker(probe: Probe, potential: Potential) -> Callable[[Params], Answers]:
    """Build a function that puts the questions to a model; it compiles once for all of them."""

    @jax.jit
    def predict(params: Params, structures: PyTree):
        def one(structure):
            positions, system = structure
            graph = neighbors.refresh(system.candidates, positions, system.cell)
            prediction = potential.apply(params, positions, system, graph)
            # Direct forces have no energy; without one no block but forces and repulsion is judged.
            energy = jnp.nan if prediction.energy is None else prediction.energy
            return jnp.asarray(energy, positions.dtype), prediction.forces

        return lax.map(one, structures)

    count = len(VOLUMES) + NUM_RATTLED

    def ask(params: Params) -> Answers:
        energies, forces = (np.asarray(x, np.float64) for x in predict(params, probe.solids))
        energies = energies.reshape(-1, count)[:, : len(VOLUMES)] / probe.num_atoms[:, None]
        rattled = forces.reshape(-1, count, *forces.shape[1:])[:, len(VOLUMES) :]
        _, pushes = predict(params, probe.dimers)
        return Answers(
            energies=energies,
            forces=tuple(f[:, :n] for f, n in zip(rattled, probe.num_atoms, strict=True)),
            repulsion=np.asarray(pushes, np.float64)[:, 1, 0].reshape(-1, len(SEPARATIONS)),
        )

    return ask
