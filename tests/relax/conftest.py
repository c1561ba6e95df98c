"""What the tests of relaxations share: small silicon, ASE's side of a comparison, central differences."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes

from bptt_relax import neighbors, potentials, systems, trees
from bptt_relax.potentials import Potential
from bptt_relax.systems import System

SKIN = 2.0


@pytest.fixture(scope="session")
def potential() -> Potential:
    return potentials.stillinger_weber()


@pytest.fixture(scope="session")
def params(potential):
    return potential.init(jax.random.key(0))


@pytest.fixture(scope="session")
def pair() -> Potential:
    """A Morse pair potential, where the physics does not matter: it compiles in half the time.

    Not a number below 1.5 angstrom.
    """

    def energy(params, vectors, system, graph):
        del system
        r = jnp.where(graph.mask, trees.safe_norm(vectors), 2.0)
        envelope = jnp.where(graph.mask, jnp.clip(1 - (r / 4.5) ** 2, 0.0) ** 3, 0.0)
        decay = jnp.exp(-params["width"] * (r - params["length"]))
        return 0.5 * params["depth"] * jnp.sum(envelope * (decay**2 - 2 * decay + 1e-3 * jnp.sqrt(r - 1.5)))

    def init(key):
        del key
        return {"depth": jnp.asarray(2.0), "width": jnp.asarray(1.3), "length": jnp.asarray(2.4)}

    return potentials.conservative(energy, init, neighbors.GraphSpec(4.5))


@pytest.fixture(scope="session")
def make_cell() -> Callable[..., Atoms]:
    """A few atoms of rattled diamond silicon in a strained primitive cell: cheap, and without any symmetry."""

    def make(repeat=(1, 1, 1), *, strain: float = 0.03, rattle: float = 0.1, seed: int = 0) -> Atoms:
        atoms = bulk("Si", a=5.431).repeat(repeat)
        deformation = np.eye(3) + strain * np.array([[1.0, 0.3, -0.2], [0.0, -0.6, 0.4], [0.0, 0.0, 0.8]])
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        atoms.positions += rattle * np.random.default_rng(seed).normal(size=(len(atoms), 3))
        return atoms

    return make


@pytest.fixture(scope="session")
def prepare(potential, make_structure) -> Callable[..., tuple[jax.Array, System]]:
    """Positions and system with a wide skin, so that no list goes stale on the way."""

    def prepare(atoms: Atoms, num_atoms: int | None = None, *, skin: float = SKIN, free=None, of=potential):
        structure = make_structure(atoms, free=free)
        layout = systems.plan_layout([structure], of.graph, skin=skin)
        # Rattled and strained a little differently, a structure must not need another compilation.
        roomy = neighbors.Capacity(*(128 * (1 + length // 64) for length in layout.capacity))
        layout = systems.Layout(num_atoms or layout.num_atoms, roomy)
        return systems.prepare(structure, of.graph, layout, skin=skin)

    return prepare


@pytest.fixture(scope="session")
def make_calculator() -> Callable[..., Calculator]:
    """ASE's view of one of our potentials, on the neighbors of one system."""

    class OurCalculator(Calculator):
        implemented_properties = ("energy", "forces", "stress")

        def __init__(self, of: Potential, system: System):
            super().__init__()
            self.system, params = system, of.init(jax.random.key(0))

            @jax.jit
            def predict(positions, system):
                graph = neighbors.refresh(system.candidates, positions, system.cell)
                return of.apply(params, positions, system, graph), graph.overflow

            self.predict = predict

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            system = self.system._replace(cell=jnp.asarray(atoms.cell.array))
            prediction, overflow = self.predict(jnp.asarray(atoms.positions), system)
            assert not overflow
            stress = np.asarray(prediction.stress)
            self.results = {
                "energy": float(prediction.energy),
                "forces": np.array(prediction.forces),
                "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
            }

    return OurCalculator


@pytest.fixture(scope="session")
def assert_gradient() -> Callable:
    """A gradient against central differences of the fourth order, along one random direction of each leaf."""

    def check(value_and_grad, tree, *, step: float = 1e-4, rtol: float = 1e-6, atol: float = 1e-9):
        leaves, structure = jax.tree.flatten(tree)
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        slopes = jax.tree.leaves(value_and_grad(tree)[1])
        generator = np.random.default_rng(0)
        for i, (path, slope) in enumerate(zip(paths, slopes, strict=True)):
            direction = generator.normal(size=np.shape(leaves[i]))

            def along(k, i=i, direction=direction):
                moved = [leaf + k * step * direction if j == i else leaf for j, leaf in enumerate(leaves)]
                return float(value_and_grad(jax.tree.unflatten(structure, moved))[0])

            wanted = (along(-2) - 8 * along(-1) + 8 * along(1) - along(2)) / (12 * step)
            np.testing.assert_allclose(np.sum(slope * direction), wanted, rtol=rtol, atol=atol, err_msg=path)

    return check
