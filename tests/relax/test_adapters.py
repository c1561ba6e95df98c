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


# optax.


def path_of(relaxation, theta, positions, system, num_steps):
    run = unrolling.unroll(relaxation, num_steps, record=unrolling.path)
    return jax.jit(lambda t, x, s: run(t, relaxation.init(t, x, s), s))(theta, positions, system)


def bare_system(n: int, padded: int = 0) -> systems.System:
    """Atoms without neighbors, one component of the last one held: all that a rule needs."""
    real = jnp.arange(n + padded) < n
    free = jnp.broadcast_to(real[:, None], (n + padded, 3)).at[n - 1, 1].set(False)
    return systems.System(
        species=jnp.where(real, 14, 0),
        masses=jnp.where(real, 28.0, 0.0),
        cell=jnp.eye(3),
        pbc=jnp.zeros(3, bool),
        mask=real,
        free=free,
    )


def path_in_well(rule, hyper, stiffness, x, system, num_steps=8):
    """Positions under a rule in an anharmonic well."""
    state, path = rule.init(hyper, system), []
    for _ in range(num_steps):
        forces = jnp.where(system.free, -stiffness * x - 0.3 * x**3, 0.0)
        displacement, state = rule.update(hyper, forces, state, system)
        x = x + jnp.where(system.free, displacement, 0.0)
        path.append(x)
    return jnp.stack(path)


WELL_START = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3))).at[2].set(0.0)


def test_sgd_with_momentum_is_the_heavy_ball():
    system = bare_system(2, padded=1)
    theirs, ours = relax.from_optax(optax.sgd(STEP, momentum=0.6)), relax.momentum(STEP, 0.6)
    paths = [jax.jit(partial(path_in_well, r, r.hyper, 2.0))(WELL_START, system) for r in (theirs, ours)]
    np.testing.assert_allclose(*paths, atol=1e-14)
    assert jnp.max(jnp.abs(paths[0][-1] - WELL_START)) > 0.1


def test_gradient_through_adam(assert_gradient):
    """With a held component and a padded atom, where forces are zero at every step."""
    system = bare_system(2, padded=1)
    rule = relax.from_optax(optax.adam(0.01, eps_root=1e-12))

    def loss(tree):
        return jnp.sum(jnp.sin(path_in_well(rule, (), *tree, system)[-1]))

    assert_gradient(jax.jit(jax.value_and_grad(loss)), (jnp.asarray(2.0), WELL_START), step=1e-5)


@pytest.mark.parametrize(
    ("transformation", "message"),
    [
        (optax.adamw(0.01), "weight decay"),
        (optax.lamb(0.01), "trust ratios"),
        (optax.lbfgs(), "L-BFGS"),
        (optax.adam(0.01), "eps_root"),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), "cap_displacement"),
        (optax.stateless(lambda u, _: u - jnp.mean(u, axis=0, keepdims=True)), "means over rows"),
        (optax.noisy_sgd(0.1, key=jax.random.key(0)), "noise"),
    ],
    ids=["adamw", "lamb", "lbfgs", "adam", "clip", "means", "noise"],
)
def test_transformations_that_cannot_be_rules_are_refused(transformation, message):
    with pytest.raises(ValueError, match=message):
        relax.from_optax(transformation)


def test_precision_of_an_optax_rule_is_that_of_the_forces():
    rule = relax.from_optax(optax.adam(optax.linear_schedule(0.01, 0.001, 10), eps_root=1e-12))
    system = trees.cast(bare_system(2), jnp.float32)
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


@pytest.fixture(scope="module")
def batch_of_fire(pair):
    relaxation = relax.from_jax_md(fire_descent, pair, force_tolerance=1e-3)
    run = unrolling.unroll(relaxation, 5, adjoints.Full())

    def loss(theta, positions, system):
        result = run(theta, relaxation.init(theta, positions, system), system)
        weights = jnp.linspace(0.3, 1.7, 6).reshape(2, 3)
        return jnp.sum(weights * result.state.positions[:2] ** 2) / 10, result

    each = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return jax.jit(jax.vmap(each, in_axes=(None, 0, None)))


def test_a_structure_at_rest_spoils_no_gradient(
    batch_of_fire, pair_params, make_cell, prepare, pair, assert_gradient
):
    """jax-md's own gradient is NaN there, with vmap for the whole batch. With a held component and a padded atom."""
    at_rest = make_cell(strain=0.0, rattle=0.0)
    at_rest.positions[:] = [[0.0, 0.0, 0.0], [1.35775, 1.35775, 1.35775]]
    free = np.array([[True, True, True], [True, False, True]])
    positions, system = prepare(at_rest, num_atoms=3, of=pair, free=free)
    moving = positions.at[1, 0].add(0.1)
    theta = relax.Theta(pair_params, ())

    def of_the_moving_one(tree):
        theta, moving = tree
        (values, result), gradient = batch_of_fire(theta, jnp.stack([positions, moving]), system)
        assert result.outcome.tolist() == [Outcome.CONVERGED, Outcome.RUNNING]
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
        np.testing.assert_array_equal(result.state.positions[0], positions)
        assert result.state.positions[1, 1, 1] == moving[1, 1]
        return values[1], jax.tree.map(lambda leaf: leaf[1], gradient)

    assert_gradient(of_the_moving_one, (theta, moving), step=1e-5)


def test_forces_kept_in_a_state_are_never_old(pair, pair_params, start):
    """Made outside a gradient, or before a rebuild, they would know neither theta nor the neighbors of now."""
    positions, system = start
    relaxation = relax.from_jax_md(fire_descent, pair)
    step = jax.jit(relaxation.step)
    state = jax.jit(relaxation.init)(theta_of(pair_params), positions, system)
    old = state._replace(rule=state.rule.set(force=0 * state.rule.force))
    after, after_old = (step(theta_of(pair_params), s, system).state for s in (state, old))
    np.testing.assert_array_equal(after.positions, after_old.positions)


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
    start_state = jax.jit(init)(positions, neighbor=None)
    state = jax.jit(lambda s: jax.lax.fori_loop(0, 5, lambda _, s: apply(s, neighbor=None), s))(start_state)
    wanted = path_of(relaxation, theta, positions, system, 10)
    np.testing.assert_allclose(state.position, wanted.trace["positions"][4], atol=1e-14)
    assert state.relaxation.steps == 5
