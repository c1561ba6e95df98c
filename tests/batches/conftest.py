"""Silicon of several sizes and cells, and one relaxation for all tests, so that little is compiled."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
import pytest
from ase.build import bulk

from bptt_relax import batches, neighbors, potentials, relax, systems
from bptt_relax.batches import Bucket, Final
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import Layout, Structure

RULE = relax.fire(0.1, largest_time_step=0.6, largest_step=None)
TOLERANCE = 1e-3


@pytest.fixture(scope="session")
def potential() -> Potential:
    return potentials.stillinger_weber()


@pytest.fixture(scope="session")
def theta(potential) -> Theta:
    return Theta(potential.init(jax.random.key(0)), RULE.hyper)


@pytest.fixture(scope="session")
def relaxation(potential) -> Relaxation:
    return relax.relaxation(potential, RULE, force_tolerance=TOLERANCE)


@pytest.fixture(scope="session")
def cell_relaxation(potential) -> Relaxation:
    return relax.variable_cell_relaxation(
        potential, RULE, force_tolerance=TOLERANCE, stress_tolerance=TOLERANCE
    )


@pytest.fixture(scope="session")
def make_silicon_cell(make_structure) -> Callable[..., Structure]:
    """Rattled silicon: primitive cells repeated, so that every size has another cell."""

    def make(repeat=(1, 1, 1), *, rattle: float = 0.08, seed: int = 0, name: str = "test") -> Structure:
        atoms = bulk("Si", a=5.5).repeat(repeat)
        atoms.positions += rattle * np.random.default_rng(seed).normal(size=atoms.positions.shape)
        return make_structure(atoms, name)

    return make


@pytest.fixture(scope="session")
def mixed(make_silicon_cell) -> list[Structure]:
    """Two to eight atoms, some close to their minimum and some not, one with held components."""
    sizes = [(1, 1, 1), (1, 1, 3), (2, 2, 1), (1, 2, 2), (1, 1, 2), (1, 1, 4)]
    structures = [
        make_silicon_cell(size, rattle=0.02 + 0.04 * (k % 3), seed=k, name=f"silicon {k}")
        for k, size in enumerate(sizes)
    ]
    held = structures[2].free.copy()
    held[0], held[1, 2] = False, False
    structures[2] = structures[2]._replace(free=held)
    return structures


@pytest.fixture(scope="session")
def plan(potential) -> Callable[..., list[Bucket]]:
    """Buckets of roomy, rounded layouts: what is compiled for one test serves the next."""

    def plan(structures: Sequence[Structure], num_atoms: Sequence[int] = (8,)) -> list[Bucket]:
        buckets = []
        smaller = 0
        for limit in sorted(num_atoms):
            members = [k for k, s in enumerate(structures) if smaller < len(s.species) <= limit]
            layout = Layout(limit, neighbors.Capacity(64 * limit, 32 * limit, 32 * limit, 256 * limit))
            buckets.append(Bucket(layout, tuple(members), 1.0, 1.0))
            smaller = limit
        return [bucket for bucket in buckets if bucket.members]

    return plan


@pytest.fixture(scope="session")
def relax_all(relaxation, cell_relaxation, potential, theta, plan) -> Callable[..., list[Final]]:
    """Relax structures, in the order given; every way of doing so is built once."""
    built = {}

    def relax_all(structures, *, moves_cell=False, num_atoms=(8,), buckets=None, **options) -> list[Final]:
        key = (moves_cell, *sorted(options.items()))
        if key not in built:
            steps = options.pop("num_steps", 200)
            which = cell_relaxation if moves_cell else relaxation
            built[key] = batches.RelaxMany(which, potential.graph, steps, **options)
        buckets = plan(structures, num_atoms) if buckets is None else buckets
        return sorted(built[key](theta, structures, buckets=buckets), key=lambda final: final.index)

    return relax_all


@pytest.fixture(scope="session")
def relax_alone(relaxation, cell_relaxation, potential, theta) -> Callable[..., list]:
    """Every state of a relaxation of one structure with its report, without padding: plain steps of the relaxation."""
    steps = {False: jax.jit(relaxation.step), True: jax.jit(cell_relaxation.step)}

    def relax_alone(structure: Structure, *, moves_cell=False, num_steps: int = 200, skin: float = 2.0):
        which = cell_relaxation if moves_cell else relaxation
        positions, system = systems.prepare(structure, potential.graph, skin=skin)
        made = [which.carry(which.init(theta, positions, system))]
        while int(made[-1].state.outcome) == 0 and int(made[-1].state.steps) < num_steps:
            made.append(steps[moves_cell](theta, made[-1].state, system))
        return made

    return relax_alone
