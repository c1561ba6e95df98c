"""Toys that keep the contract of a relaxation and compile in a second: no graph, four real atoms and a padded one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bptt_relax import potentials, relax
from bptt_relax.relax import Evaluation, Relaxation, Theta, UpdateRule
from bptt_relax.systems import System

ATOMS, PADDED = 4, 5

RULES: dict[str, Callable[[], UpdateRule]] = {
    "descent": lambda: relax.descent(0.06, annealing=0.99),
    "heavy ball": lambda: relax.momentum(0.06, 0.4),
    "convex mix": lambda: relax.momentum(0.08, 0.3, mix="convex", annealing=0.98),
    "fire": lambda: relax.fire(0.1, largest_time_step=0.3),
    "capped": lambda: relax.chain(relax.momentum(0.06, 0.4), relax.cap_displacement(0.05)),
    "without drift": lambda: relax.chain(relax.descent(0.06), relax.remove_drift()),
    "optax": lambda: relax.from_optax(optax.sgd(0.05, momentum=0.3)),
}


class Toy(NamedTuple):
    """A relaxation on a surface that was made up, its start and a loss of its end."""

    relaxation: Relaxation
    theta: Theta
    positions: jax.Array
    system: System
    loss: Callable


def springs(params, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Energy of anharmonic springs between all real atoms; they want vectors that do not fit together."""
    rng = np.random.default_rng(7)
    places, frustration = rng.normal(size=(PADDED, 3)), rng.normal(size=(PADDED, PADDED, 3))
    wanted = places[:, None] - places[None] + 0.3 * (frustration - frustration.transpose(1, 0, 2))
    pairs = (mask[:, None] & mask[None])[..., None]
    d = jnp.where(pairs, x[:, None] - x[None] - params["length"] * wanted, 0.0)
    stiffness = params["stiffness"] * jnp.array([1.0, 1.5, 0.7])[None, None]
    return jnp.sum(0.25 * stiffness * d**2 + 0.125 * params["quartic"] * d**4)


def conservative(theta: Theta, positions, cell, system) -> Evaluation:
    del cell
    energy, slope = jax.value_and_grad(springs, argnums=1)(theta.potential, positions, system.mask)
    return Evaluation(energy, jnp.where(system.free, -slope, 0.0), None, jnp.asarray(False))


def direct(theta: Theta, positions, cell, system) -> Evaluation:
    """Springs, anchors, and a force that is no gradient; the Jacobian is not symmetric, the net force not zero."""
    here = conservative(theta, positions, cell, system)
    positions = jnp.where(system.mask[:, None], positions, 0.0)
    anchored = positions - 0.1 * jnp.arange(PADDED, dtype=positions.dtype)[:, None]
    turned = jnp.cross(jnp.roll(positions, 1, axis=0), jnp.ones_like(positions))
    forces = here.forces - 0.8 * anchored + theta.potential["twist"] * turned
    return here._replace(forces=jnp.where(system.free, forces, 0.0))


EVALUATE = {"conservative toy": conservative, "direct toy": direct}


def loss(theta: Theta, result, system: System) -> jax.Array:
    """Sees positions, their rigid shift, the energy and theta itself."""
    del theta
    rng = np.random.default_rng(3)
    target = jnp.asarray(rng.normal(size=(PADDED, 3)))
    squared = jnp.sum(jnp.where(system.free, (result.state.positions - target) ** 2, 0.0))
    return jnp.sqrt(squared + 1e-3) + 0.1 * result.info.energy


@pytest.fixture(scope="session")
def make_toy() -> Callable[..., Toy]:
    def make(kind: str, rule: UpdateRule, *, free=None, spread: float = 0.5, **tolerances) -> Toy:
        mask = jnp.arange(PADDED) < ATOMS
        movable = np.ones((PADDED, 3), bool) if free is None else np.asarray(free)
        system = System(
            species=jnp.where(mask, 14, 0),
            masses=jnp.where(mask, 28.0, 0.0),
            cell=10.0 * jnp.eye(3),
            pbc=jnp.ones(3, bool),
            mask=mask,
            free=mask[:, None] & movable,
        )
        relaxation = relax.relaxation(potentials.stillinger_weber(), rule, **tolerances)._replace(
            evaluate=EVALUATE[kind], evaluate_lean=None, conservative=kind == "conservative toy"
        )
        params = {"stiffness": 1.0, "quartic": 0.3, "length": 0.9, "twist": 0.4}
        theta = Theta({name: jnp.asarray(value) for name, value in params.items()}, rule.hyper)
        start = spread * np.random.default_rng(5).normal(size=(PADDED, 3))
        return Toy(relaxation, theta, jnp.where(mask[:, None], start, 0.0), system, loss)

    return make


@pytest.fixture(scope="session")
def make_rule() -> Callable[[str], UpdateRule]:
    return lambda name: RULES[name]()
