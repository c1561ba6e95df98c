"""Other packages' minimizers as ours and ours as theirs: same paths, exact gradients, known faults refused or cured."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax_md import minimize

from bptt_relax import adjoints, potentials, relax, systems, trees, unrolling
from bptt_relax.outcomes import Outcome

STEP = 0.02
gradient_descent = partial(minimize.gradient_descent, step_size=STEP)
fire_descent = partial(minimize.fire_descent, dt_start=0.1, dt_max=0.25)


@pytest.fixture(scope="module")
def pair_params(pair):
    return pair.init(jax.random.key(0))


@pytest.fixture(scope="module")
def start(make_cell, prepare, pair):
    return prepare(make_cell(), of=pair)


def make_loss(relaxation, num_steps, adjoint=None):
    run = unrolling.unroll(relaxation, num_steps, adjoint)

    def loss(theta, positions, system):
        result = run(theta, relaxation.init(theta, positions, system), system)
        weights = jnp.linspace(0.3, 1.7, 6).reshape(2, 3)
        return jnp.sum(weights * result.state.positions[:2] ** 2) / 10, result

    return loss


# optax.


def path_of(relaxation, theta, positions, system, num_steps):
    run = unrolling.unroll(relaxation, num_steps, record=unrolling.path)
    return jax.jit(lambda t, x, s: run(t, relaxation.init(t, x, s), s))(theta, positions, system)


def test_sgd_with_momentum_is_the_heavy_ball(pair, pair_params, start):
    rules = relax.from_optax(optax.sgd(STEP, momentum=0.6)), relax.momentum(STEP, 0.6)
    ends = [
        path_of(relax.relaxation(pair, rule), relax.Theta(pair_params, rule.hyper), *start, 10).trace
        for rule in rules
    ]
    np.testing.assert_allclose(ends[0]["positions"], ends[1]["positions"], atol=1e-13)


def test_adam_moves_atoms_as_optax_moves_parameters(pair, pair_params, start):
    positions, system = start
    adam = optax.adam(0.01, eps_root=1e-12)
    rule = relax.from_optax(adam)
    theta = relax.Theta(pair_params, rule.hyper)
    relaxation = relax.relaxation(pair, rule)
    result = path_of(relaxation, theta, positions, system, 8)
    evaluate, update = jax.jit(relaxation.evaluate), jax.jit(adam.update)
    x, state = positions, adam.init(positions)
    for ours in result.trace["positions"]:
        updates, state = update(-evaluate(theta, x, system.cell, system).forces, state)
        x = optax.apply_updates(x, updates)
        np.testing.assert_allclose(ours, x, atol=1e-13)


def test_gradient_through_adam(pair, pair_params, make_cell, prepare, assert_gradient):
    # With a held atom and a padded one, where forces are zero at every step.
    free = np.array([[True, True, True], [True, False, True]])
    positions, system = prepare(make_cell(), num_atoms=3, of=pair, free=free)
    rule = relax.from_optax(optax.adam(0.01, eps_root=1e-12))
    loss = make_loss(relax.relaxation(pair, rule), 5)
    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def of_both(tree):
        (value, _), gradient = value_and_grad(*tree, system)
        return value, gradient

    assert_gradient(of_both, (relax.Theta(pair_params, rule.hyper), positions), step=1e-5)


def test_precision_of_an_optax_rule_is_that_of_the_forces():
    rule = relax.from_optax(optax.adam(optax.linear_schedule(0.01, 0.001, 10), eps_root=1e-12))
    system = systems.System(
        species=jnp.full(2, 14),
        masses=jnp.full(2, 28.0, jnp.float32),
        cell=jnp.eye(3),
        pbc=jnp.zeros(3, bool),
        mask=jnp.ones(2, bool),
        free=jnp.ones((2, 3), bool),
    )
    state = rule.init((), system)
    displacement, after = jax.eval_shape(rule.update, (), jnp.ones((2, 3), jnp.float32), state, system)
    assert displacement.dtype == jnp.float32
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(jnp.result_type, state)


# From jax-md.


def theta_of(params):
    return relax.Theta(params, ())


def test_gradient_descent_is_descent(pair, pair_params, start):
    theirs = path_of(relax.from_jax_md(gradient_descent, pair), theta_of(pair_params), *start, 10)
    rule = relax.descent(STEP)
    ours = path_of(relax.relaxation(pair, rule), relax.Theta(pair_params, rule.hyper), *start, 10)
    np.testing.assert_allclose(theirs.trace["positions"], ours.trace["positions"], atol=1e-13)
    for name in ("energy", "max_force", "step_norm", "steps"):
        np.testing.assert_allclose(theirs.trace[name], ours.trace[name], atol=1e-12)


def test_fire_descent_is_that_of_jax_md(pair, pair_params, start):
    positions, system = start
    relaxation = relax.from_jax_md(fire_descent, pair)
    result = path_of(relaxation, theta_of(pair_params), positions, system, 20)

    def force(R, **unused):
        return relaxation.evaluate(theta_of(pair_params), R, system.cell, system).forces

    init, apply = fire_descent(force, lambda R, dR, **_: R + dR)
    # Time step and mixing in the precision of the positions, as the adapter carries them.
    state, apply = trees.cast(init(positions), positions.dtype), jax.jit(apply)
    for ours in result.trace["positions"]:
        state = trees.cast(apply(state), positions.dtype)
        np.testing.assert_allclose(ours, state.position, atol=1e-12)
    assert {leaf.dtype for leaf in jax.tree.leaves(result.state.rule)} == {
        jnp.dtype(float),
        jnp.dtype("int32"),
    }


def test_gradient_through_fire_descent(pair, pair_params, make_cell, prepare, assert_gradient):
    free = np.array([[True, True, True], [True, False, True]])
    positions, system = prepare(make_cell(), num_atoms=3, of=pair, free=free)
    relaxation = relax.from_jax_md(fire_descent, pair)
    loss = make_loss(relaxation, 6, adjoints.Checkpointed("force"))
    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def of_both(tree):
        (value, result), gradient = value_and_grad(*tree, system)
        assert result.outcome == Outcome.RUNNING
        assert result.state.positions[1, 1] == tree[1][1, 1]
        return value, gradient

    assert_gradient(of_both, (theta_of(pair_params), positions), step=1e-5)


@pytest.fixture(scope="module")
def batch_of_fire(pair):
    loss = make_loss(relax.from_jax_md(fire_descent, pair, force_tolerance=1e-3), 5)
    each = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return jax.jit(jax.vmap(each, in_axes=(None, 0, None)))


def test_a_structure_at_rest_spoils_no_gradient(batch_of_fire, pair_params, make_cell, prepare, pair):
    """jax-md's own gradient is NaN there, and with vmap for the whole batch."""
    at_rest = make_cell(strain=0.0, rattle=0.0)
    at_rest.positions[:] = [[0.0, 0.0, 0.0], [1.35775, 1.35775, 1.35775]]
    positions, system = prepare(at_rest, of=pair)
    moving = positions.at[1, 0].add(0.1)
    batch = jnp.stack([positions, moving])
    (_, result), gradient = batch_of_fire(theta_of(pair_params), batch, system)
    assert result.outcome.tolist() == [Outcome.CONVERGED, Outcome.RUNNING]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_array_equal(result.state.positions[0], positions)
    alone = batch_of_fire(theta_of(pair_params), jnp.stack([moving, moving]), system)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[1], rtol=1e-12, atol=1e-14), gradient, alone)


def test_a_state_made_elsewhere_knows_theta(pair, pair_params, start):
    """fire_descent keeps the forces of the start in its state; a gradient must not lose what they say about theta."""
    positions, system = start
    relaxation = relax.from_jax_md(fire_descent, pair)
    run = unrolling.unroll(relaxation, 2)
    state = jax.jit(relaxation.init)(theta_of(pair_params), positions, system)

    def outside(theta):
        return jnp.sum(run(theta, state, system).state.positions ** 2)

    def inside(theta):
        return jnp.sum(run(theta, relaxation.init(theta, positions, system), system).state.positions ** 2)

    both = jax.jit(lambda t: (jax.grad(outside)(t), jax.grad(inside)(t)))(theta_of(pair_params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), *both)


def test_stale_neighbors_are_found_where_the_step_ends(pair, pair_params, make_cell, prepare):
    """FIRE evaluates there, and would keep forces that miss a neighbor."""
    positions, system = prepare(make_cell(rattle=0.3), of=pair, skin=1e-3)
    result = path_of(relax.from_jax_md(fire_descent, pair), theta_of(pair_params), positions, system, 5)
    assert result.outcome == Outcome.STALE_NEIGHBORS
    assert result.state.steps == 0
    np.testing.assert_array_equal(result.state.positions, positions)


@pytest.mark.parametrize(
    ("minimizer", "message"),
    [
        (minimize.fire_descent_box, "variable_cell_relaxation"),
        (minimize.precon_fire_descent, "needs energies"),
        (minimize.gradient_descent, "step size bound"),
    ],
    ids=["box", "armijo", "unbound"],
)
def test_minimizers_that_cannot_be_used_are_refused(minimizer, message):
    with pytest.raises(ValueError, match=message):
        relax.from_jax_md(minimizer, potentials.stillinger_weber())


# To jax-md.


def test_a_relaxation_as_a_minimizer_of_jax_md(pair, pair_params, start):
    positions, system = start
    rule = relax.descent(STEP)
    theta = relax.Theta(pair_params, rule.hyper)
    relaxation = relax.relaxation(pair, rule)
    init, apply = relax.to_jax_md(relaxation, theta, system)
    state, apply = init(positions, neighbor=None), jax.jit(apply)
    for _ in range(5):
        state = apply(state)
    wanted = path_of(relaxation, theta, positions, system, 5).state
    np.testing.assert_allclose(state.position, wanted.positions, atol=1e-14)
    assert state.relaxation.steps == 5


def test_there_and_back(pair, pair_params, start):
    """Our FIRE as a minimizer of jax-md; jax-md's loop, and the same path."""
    positions, system = start
    rule = relax.fire()
    theta = relax.Theta(pair_params, rule.hyper)
    relaxation = relax.relaxation(pair, rule)
    init, apply = relax.to_jax_md(relaxation, theta, system)
    final = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, s: apply(s), init(x)))(positions)
    wanted = path_of(relaxation, theta, positions, system, 10).state
    np.testing.assert_allclose(final.position, wanted.positions, atol=1e-13)
