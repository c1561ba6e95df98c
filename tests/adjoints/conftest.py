"""Small relaxations that converge, on a pair potential that compiles fast."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import neighbors, potentials, relax, systems, trees, unrolling
from bptt_relax.adjoints import Adjoint
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import Layout, Structure, System

CUTOFF = 3.6
STEPS = 160
"""Enough for forces below 1e-11 eV/angstrom."""


class Problem(NamedTuple):
    """A relaxation, where it starts and what its end is compared with."""

    relaxation: Relaxation
    theta: Theta
    positions: jax.Array
    system: System
    target: jax.Array

    def loss(self, result, system) -> jax.Array:
        """Sees positions, their rigid shift included, and the energy."""
        d = jnp.where(system.free, result.state.positions - self.target, 0.0)
        return trees.safe_sqrt(jnp.sum(d**2)) + 0.1 * result.info.energy

    def value(self, adjoint: Adjoint, num_steps: int = STEPS) -> Callable:
        """(theta, positions, system) -> loss and the result of the run."""
        run = unrolling.unroll(self.relaxation, num_steps, adjoint)

        def value(theta, positions, system):
            result = run(theta, self.relaxation.init(theta, positions, system), system)
            return self.loss(result, system), result

        return value

    def gradient(self, adjoint: Adjoint, num_steps: int = STEPS):
        """Gradient with respect to theta and the start, and the result of the run."""
        both = jax.jit(jax.grad(self.value(adjoint, num_steps), argnums=(0, 1), has_aux=True))
        return both(self.theta, self.positions, self.system)


@pytest.fixture(scope="session")
def morse() -> Potential:
    def energy(params, vectors, system, graph):
        del system
        r = jnp.where(graph.mask, trees.safe_norm(vectors), 2.5)
        envelope = jnp.where(graph.mask, jnp.clip(1 - (r / CUTOFF) ** 2, 0.0) ** 3, 0.0)
        decay = jnp.exp(-params["width"] * (r - params["length"]))
        return 0.5 * params["depth"] * jnp.sum(envelope * (decay**2 - 2 * decay))

    def init(key):
        del key
        return {"depth": jnp.asarray(4.0), "width": jnp.asarray(1.4), "length": jnp.asarray(2.3)}

    return potentials.conservative(energy, init, neighbors.GraphSpec(CUTOFF), name="morse")


@pytest.fixture(scope="session")
def crystal() -> Structure:
    """Four atoms near a minimum in a cell without any symmetry, so that the minimum depends on every parameter."""
    places = [[-1.15, -1.45, -1.26], [-0.85, 0.44, 0.02], [0.42, 2.07, 0.78], [1.58, -1.06, 0.46]]
    cell = np.array([[4.0, 0, 0], [0.9, 3.6, 0], [-0.5, 0.6, 3.9]])
    rattled = np.array(places) + 0.05 * np.random.default_rng(0).normal(size=(4, 3))
    return _structure("crystal", rattled, cell, periodic=True)


@pytest.fixture(scope="session")
def cluster() -> Structure:
    """A tetrahedron in free space: all pairs are neighbors, rotations cost nothing."""
    places = 1.7 * np.array([[0.0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    rattled = places + 0.1 * np.random.default_rng(0).normal(size=(4, 3))
    return _structure("cluster", rattled, 20.0 * np.eye(3), periodic=False)


def _structure(name, positions, cell, *, periodic) -> Structure:
    return Structure(
        name, np.full(4, 14), np.full(4, 28.0), positions, cell, np.full(3, periodic), np.ones((4, 3), bool)
    )


@pytest.fixture(scope="session")
def make_problem(morse) -> Callable[..., Problem]:
    """A structure with one padded atom, relaxed by a heavy ball; converged ones stop."""

    def make(structure, *, free=None, num_atoms=5, rule=None, skin=1.0, force_tolerance=1e-11) -> Problem:
        if free is not None:
            structure = structure._replace(free=np.asarray(free))
        layout = Layout(num_atoms, neighbors.Capacity(256, 64, 0, 0))
        positions, system = systems.prepare(structure, morse.graph, layout, skin=skin)
        rule = relax.momentum(0.025, 0.5) if rule is None else rule
        target = np.zeros(positions.shape)
        target[:4] = structure.positions + 0.2 * np.random.default_rng(1).normal(size=(4, 3))
        return Problem(
            relax.relaxation(morse, rule, force_tolerance=force_tolerance),
            Theta(morse.init(None), rule.hyper),
            positions,
            system,
            jnp.asarray(target),
        )

    return make


@pytest.fixture(scope="session")
def converging(make_problem, crystal) -> Problem:
    return make_problem(crystal)


@pytest.fixture(scope="session")
def exact(converging):
    """Gradient through all steps of `converging`, and the result."""
    from bptt_relax.adjoints import Checkpointed

    return converging.gradient(Checkpointed("force"))


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    def close(actual, expected, rtol):
        expected = jax.tree.leaves(expected)
        scale = max(np.max(np.abs(np.asarray(e, float)), initial=0.0) for e in expected)
        for a, e in zip(jax.tree.leaves(actual), expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * scale)

    return close
