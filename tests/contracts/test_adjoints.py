"""One contract for every adjoint, whatever the rule and the potential."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import relax, systems, unrolling
from bptt_relax.adjoints import Checkpointed, FrozenGeometry, Full, Guided, Implicit, Truncated
from bptt_relax.models import adapt
from bptt_relax.outcomes import RelaxationError
from bptt_relax.potentials import stillinger_weber
from bptt_relax.relax import Theta

STEPS = 5

EXACT = {
    "step": Checkpointed(),
    "force": Checkpointed("force"),
    "segments": Checkpointed("segments"),
    "uneven segments": Checkpointed("segments", segment=3),
    "first of all": Truncated(first=STEPS),
    "last of all": Truncated(last=STEPS),
    "implicit, falling back": Implicit(on_unusable="unroll", force_tolerance=1e-9),
    "all guided": Guided(STEPS),
}
APPROXIMATE = {
    "first": Truncated(first=2),
    "last": Truncated(last=2),
    "implicit": Implicit(force_tolerance=1e9, solver="gmres"),
    "guided": Guided(2),
    "frozen": FrozenGeometry(),
}
EVERY = {**EXACT, **APPROXIMATE}


def outcome_of(toy, adjoint, num_steps=STEPS):
    """Loss, result and gradient with respect to theta and the start."""
    run = unrolling.unroll(toy.relaxation, num_steps, adjoint, unrolling.path)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def evaluate(theta, positions):
        result = run(theta, toy.relaxation.init(theta, positions, toy.system), toy.system)
        return toy.loss(theta, result, toy.system), result

    (_, result), gradient = evaluate(toy.theta, toy.positions)
    return result, gradient


def assert_close(actual, expected, rtol):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * (1e-3 + np.max(np.abs(e), initial=0.0)))


@pytest.fixture(scope="session")
def full():
    """Results of `Full`, one for each relaxation."""
    known = {}

    def get(key, toy, num_steps=STEPS):
        if key not in known:
            known[key] = outcome_of(toy, Full(), num_steps)
        return known[key]

    return get


def assert_keeps_contract(toy, name, expected):
    result, gradient = outcome_of(toy, EVERY[name])
    expected_result, expected_gradient = expected
    # How to differentiate changes nothing forward: end, outcome, steps and everything recorded.
    assert_close(result, expected_result, 1e-12)
    assert jax.tree.structure(gradient) == jax.tree.structure(expected_gradient)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, expected_gradient)
    # Padded and held components of the start have no say.
    assert bool(jnp.all(jnp.where(toy.system.mask[:, None], 0.0, gradient[1]) == 0.0))
    if name in EXACT:
        assert_close(gradient, expected_gradient, 1e-12)
    else:
        assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient[0].potential))


RULES = ("descent", "heavy ball", "convex mix", "fire", "capped", "without drift", "optax")
QUICK = {
    *(("conservative toy", "capped", name) for name in EVERY),
    *(("conservative toy", rule, "guided") for rule in RULES),
    *(("conservative toy", rule, "last") for rule in ("fire", "optax")),
    *(
        ("direct toy", "capped", name)
        for name in ("step", "last", "implicit", "implicit, falling back", "guided")
    ),
    *(("stillinger-weber", "capped", name) for name in ("force", "implicit")),
}
"""What runs every time; compiling all of it takes many minutes."""


POTENTIALS = {
    "stillinger-weber": stillinger_weber,
    "adapt": lambda: adapt.build(adapt.Config(reach=4.0, width=8, hidden=8, num_layers=2, num_heads=2)),
}
"""Real ones, on strained silicon."""


def combinations():
    for kind in ("conservative toy", "direct toy", *POTENTIALS):
        for rule in RULES:
            for name in EVERY:
                if (kind, name) == ("adapt", "implicit"):
                    # Forces of random parameters have no minimum: refused, see below.
                    continue
                combination = (kind, rule, name)
                marks = () if combination in QUICK else pytest.mark.slow
                yield pytest.param(*combination, marks=marks, id=" - ".join(combination))


@pytest.mark.parametrize(("kind", "rule", "name"), list(combinations()))
def test_every_rule_adjoint_and_potential(make_problem, full, kind, rule, name):
    problem = make_problem(kind, rule)
    assert_keeps_contract(problem, name, full((kind, rule), problem))


@pytest.mark.parametrize(
    ("kind", "rule"),
    [*(("conservative toy", rule) for rule in RULES)]
    + [(kind, "capped") for kind in ("direct toy", "stillinger-weber", "adapt")],
)
def test_the_full_gradient_is_that_of_central_differences(make_problem, full, kind, rule):
    """Along one direction of parameters, rule and start at once; every exact adjoint is compared with `Full`."""
    problem = make_problem(kind, rule)
    run = unrolling.unroll(problem.relaxation, STEPS)

    @jax.jit
    def loss(theta, positions):
        result = run(theta, problem.relaxation.init(theta, positions, problem.system), problem.system)
        return problem.loss(theta, result, problem.system)

    at = (problem.theta, problem.positions)
    draws = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(at))))
    direction = jax.tree.map(lambda leaf: jax.random.normal(next(draws), jnp.shape(leaf)), at)
    direction = (direction[0], jnp.where(problem.system.mask[:, None], direction[1], 0.0))
    gradient = full((kind, rule), problem)[1]
    along = sum(map(jnp.vdot, jax.tree.leaves(direction), jax.tree.leaves(gradient)))
    step = 1e-6
    ahead, behind = (
        loss(*jax.tree.map(lambda leaf, d, sign=sign: leaf + sign * step * d, at, direction))
        for sign in (1, -1)
    )
    np.testing.assert_allclose((ahead - behind) / (2 * step), along, rtol=1e-6)


@pytest.mark.slow
def test_implicit_refuses_forces_that_have_no_minimum(make_problem, full):
    """Those of a network with random parameters: no number comes out that could be taken for a gradient."""
    problem, adjoint = make_problem("adapt", "capped"), EVERY["implicit"]
    result, (theta, start) = outcome_of(problem, adjoint)
    assert_close(result, full(("adapt", "capped"), problem)[0], 1e-12)
    assert all(bool(jnp.all(jnp.isnan(leaf))) for leaf in jax.tree.leaves(theta.potential))
    np.testing.assert_array_equal(start, 0.0)

    def loss(positions):
        end = result._replace(state=result.state._replace(positions=positions))
        return problem.loss(problem.theta, end, problem.system)

    cotangent = jax.grad(loss)(result.state.positions)
    report = jax.jit(
        lambda: adjoint.report(problem.relaxation, problem.theta, result.state, problem.system, cotangent)
    )()
    with pytest.raises(
        RelaxationError, match="structure here: the linear solver did not reach its tolerance"
    ):
        report.check("here")


@pytest.fixture(scope="session")
def make_problem(make_toy, make_rule, make_silicon, make_structure):
    """A toy by name, or strained silicon with a vacancy and a padded atom, in the form of a toy."""

    def make(kind, rule_name, **tolerances):
        rule = make_rule(rule_name)
        if kind not in POTENTIALS:
            return make_toy(kind, rule, **tolerances)
        potential = POTENTIALS[kind]()
        structure = make_structure(make_silicon(1, rattle=0.08))
        layout = systems.plan_layout([structure], potential.graph)._replace(num_atoms=8)
        positions, system = systems.prepare(structure, potential.graph, layout)
        toy = make_toy("conservative toy", rule)
        return toy._replace(
            relaxation=relax.relaxation(potential, rule, **tolerances),
            theta=Theta(potential.init(jax.random.key(0)), rule.hyper),
            positions=positions,
            system=system,
            loss=silicon_loss if potential.conservative else geometric_loss,
        )

    return make


def silicon_loss(theta, result, system):
    return geometric_loss(theta, result, system) + 0.1 * result.info.energy


def geometric_loss(theta, result, system):
    """Of positions alone, for potentials that have no energy."""
    del theta
    positions = result.state.positions
    target = 0.1 * np.random.default_rng(3).normal(size=positions.shape)
    squared = jnp.sum(jnp.where(system.free, (positions - target) ** 2, 0.0))
    return jnp.sqrt(squared)
