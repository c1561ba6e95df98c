"""The product: gradients of Delta Q through a relaxation, against central differences in float64."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from bptt_relax import losses, relax, systems, trees, unrolling
from bptt_relax.models import pretrained
from bptt_relax.outcomes import ModelError
from bptt_relax.potentials import Potential
from bptt_relax.relax import Theta, UpdateRule
from bptt_relax.systems import Pair

STEPS = 30


class Problem(NamedTuple):
    """A relaxation, its start and its loss."""

    potential: Potential
    rule: UpdateRule
    theta: Theta
    pair: Pair
    loss: Callable[[Theta, Pair], jax.Array]
    make_pair: Callable[..., Pair]


@pytest.fixture(scope="module", params=["stillinger-weber", "chgnet-0.3.0"])
def problem(request, make_silicon, make_structure) -> Problem:
    try:
        potential, params = pretrained.load(request.param)
    except ModelError as error:
        pytest.skip(f"no weights: {error}")
    params = trees.cast(params, jnp.float64)
    rule = relax.chain(relax.momentum(0.012, 0.5, annealing=0.99), relax.cap_displacement(0.05))
    relaxation = relax.relaxation(potential, rule)
    run = unrolling.unroll(relaxation, STEPS)

    structure = make_structure(make_silicon(1, rattle=0.08))
    noise = 0.05 * np.random.default_rng(1).normal(size=structure.positions.shape)
    target = structure._replace(positions=structure.positions + noise)

    def make_pair(extra_atoms: int = 0, start=structure) -> Pair:
        layout = systems.plan_layout([structure, target], potential.graph)
        layout = layout._replace(num_atoms=layout.num_atoms + extra_atoms)
        return systems.prepare_pair(start, target, potential.graph, layout)

    def loss(theta: Theta, pair: Pair) -> jax.Array:
        final = run(theta, relaxation.init(theta, pair.initial, pair.system), pair.system).state
        return losses.delta_q(final.positions, pair.relaxed, pair.system)

    return Problem(potential, rule, Theta(params, rule.hyper), make_pair(), loss, make_pair)


@pytest.fixture(scope="module")
def value_and_grad(problem):
    return jax.jit(jax.value_and_grad(problem.loss))


def central_difference(loss, theta, direction, h) -> float:
    move = lambda scale: jax.tree.map(lambda leaf, d: leaf + scale * d, theta, direction)  # noqa: E731
    # Fourth order, so that a step large enough for round-off still leaves no truncation error at 1e-6.
    near = loss(move(h)) - loss(move(-h))
    far = loss(move(2 * h)) - loss(move(-2 * h))
    return float((8 * near - far) / (12 * h))


def assert_agrees(value_and_grad, problem, direction, h):
    _, gradient = value_and_grad(problem.theta, problem.pair)
    along = sum(
        jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    difference = central_difference(
        lambda theta: value_and_grad(theta, problem.pair)[0], problem.theta, direction, h
    )
    assert abs(difference) > 1e-6, "a derivative of zero would agree with anything"
    assert float(along) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_potential_parameters(problem, value_and_grad, seed):
    rng = np.random.default_rng(seed)
    size = sum(leaf.size for leaf in jax.tree.leaves(problem.theta.potential))
    direction = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)) / np.sqrt(size), problem.theta.potential
    )
    still = jax.tree.map(jnp.zeros_like, problem.theta.rule)
    assert_agrees(value_and_grad, problem, Theta(direction, still), 3e-5)


@pytest.mark.parametrize("name", ["log_step_size", "logit_decay", "log_annealing"])
def test_hyperparameters(problem, value_and_grad, name):
    still = jax.tree.map(jnp.zeros_like, problem.theta)
    first, *rest = still.rule
    direction = still._replace(rule=(first | {name: jnp.ones(())}, *rest))
    assert_agrees(value_and_grad, problem, direction, 1e-4)


in_short = pytest.mark.parametrize(
    "problem", ["stillinger-weber", pytest.param("chgnet-0.3.0", marks=pytest.mark.slow)], indirect=True
)
"""For what no potential has a say in: a program of CHGNet more takes minutes to compile."""


def leaves_close(a, b, atol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=atol)


@in_short
def test_padded_atoms_change_nothing(problem, value_and_grad):
    value, gradient = value_and_grad(problem.theta, problem.pair)
    padded_value, padded = value_and_grad(problem.theta, problem.make_pair(extra_atoms=2))
    assert float(padded_value) == pytest.approx(float(value), rel=1e-10)
    leaves_close(padded, gradient, atol=1e-9)


@in_short
@pytest.mark.parametrize("force_tolerance", [0.0, 1e-6])
def test_a_start_without_forces_has_a_finite_gradient(problem, make_structure, force_tolerance):
    """Perfect diamond: every norm that a rule, a cap or a stop takes vanishes, moving or frozen."""
    crystal = make_structure(bulk("Si", cubic=True, a=5.5))
    target = crystal._replace(
        positions=crystal.positions + 0.05 * np.random.default_rng(0).normal(size=(8, 3))
    )
    pair = systems.prepare_pair(crystal, target, problem.potential.graph)
    relaxation = relax.relaxation(problem.potential, problem.rule, force_tolerance=force_tolerance)
    run = unrolling.unroll(relaxation, 3)

    def loss(theta):
        result = run(theta, relaxation.init(theta, pair.initial, pair.system), pair.system)
        return losses.delta_q(result.state.positions, pair.relaxed, pair.system), result

    (value, result), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(problem.theta)
    assert float(value) == pytest.approx(
        float(losses.delta_q(pair.initial, pair.relaxed, pair.system)), rel=1e-9
    )
    assert int(result.state.steps) == (0 if force_tolerance else 3)
    assert trees.all_finite(gradient)
    assert trees.global_norm(gradient) < 1e-6


def test_a_masked_structure_is_invisible(problem, value_and_grad):
    """A blank that fills up a batch: no atoms, no edges, nothing but zeros in value and gradient."""
    pair = problem.pair
    candidates = pair.system.candidates
    system = pair.system._replace(
        mask=jnp.zeros_like(pair.system.mask),
        free=jnp.zeros_like(pair.system.free),
        masses=jnp.zeros_like(pair.system.masses),
        candidates=candidates._replace(mask=jnp.zeros_like(candidates.mask)),
    )
    value, gradient = value_and_grad(problem.theta, pair._replace(system=system))
    assert float(value) == 0.0
    assert all(bool(jnp.all(leaf == 0.0)) for leaf in jax.tree.leaves(gradient))


@in_short
def test_a_broken_structure_leaves_the_others_alone(problem, value_and_grad):
    """Two atoms in one place make that structure's gradient useless, and nobody else's."""
    pair = problem.pair
    broken = pair._replace(initial=pair.initial.at[1].set(pair.initial[0]))
    mapped = jax.jit(
        lambda theta, batch: jax.lax.map(lambda one: jax.value_and_grad(problem.loss)(theta, one), batch)
    )
    _, gradients = mapped(problem.theta, trees.stack([broken, pair]))
    _, alone = value_and_grad(problem.theta, pair)
    leaves_close(trees.take(gradients, 1), alone, atol=1e-12)
