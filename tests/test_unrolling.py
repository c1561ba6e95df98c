"""Unrolls: what they return, when they stop, and how they go on past a rebuild of the neighbors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import neighbors, potentials, relax, systems, trees, unrolling
from bptt_relax.adjoints import Checkpointed, Guided, Implicit, Truncated
from bptt_relax.outcomes import Outcome, RelaxationError
from bptt_relax.relax import Theta

STEPS = 24
SMALL, LARGE = 0.12, 3.0
"""Skins with which the relaxation needs several rebuilds, and none."""


def energy(params, vectors, system, graph):
    """Morse pairs within 3.6 angstrom: cheap to compile."""
    del system
    r = jnp.where(graph.mask, trees.safe_norm(vectors), 2.5)
    envelope = jnp.where(graph.mask, jnp.clip(1 - (r / 3.6) ** 2, 0.0) ** 3, 0.0)
    decay = jnp.exp(-params["width"] * (r - params["length"]))
    return 0.5 * params["depth"] * jnp.sum(envelope * (decay**2 - 2 * decay))


PARAMS = {"depth": 4.0, "width": 1.4, "length": 2.3}
POTENTIAL = potentials.conservative(
    energy,
    lambda key: {name: jnp.asarray(value) for name, value in PARAMS.items()},
    neighbors.GraphSpec(3.6),
)
RULE = relax.momentum(0.008, 0.5)
RELAXATION = relax.relaxation(POTENTIAL, RULE)


@pytest.fixture(scope="module")
def theta():
    return Theta(POTENTIAL.init(None), RULE.hyper)


def prepared(skin):
    """Four atoms in a cell without symmetry, some way from their minimum."""
    places = [[-1.15, -1.45, -1.26], [-0.85, 0.44, 0.02], [0.42, 2.07, 0.78], [1.58, -1.06, 0.46]]
    places = np.array(places) + 0.15 * np.random.default_rng(0).normal(size=(4, 3))
    cell = np.array([[4.0, 0, 0], [0.9, 3.6, 0], [-0.5, 0.6, 3.9]])
    structure = systems.Structure(
        "x", np.full(4, 14), np.full(4, 28.0), places, cell, np.ones(3, bool), np.ones((4, 3), bool)
    )
    layout = systems.Layout(4, neighbors.Capacity(448, 64, 0, 0))
    return systems.prepare(structure, POTENTIAL.graph, layout, skin=skin)


def started(theta, skin, relaxation=RELAXATION):
    positions, system = prepared(skin)
    return relaxation.init(theta, positions, system), system


def loss(theta, result, system):
    target = 0.3 * np.random.default_rng(1).normal(size=(4, 3))
    distance = jnp.sum((result.state.positions - target) ** 2)
    value = distance + 0.1 * result.info.energy + theta.potential["depth"] ** 2
    return value, system.masses[0]


def test_result(theta):
    run = jax.jit(unrolling.unroll(RELAXATION, STEPS, record=unrolling.path))
    result = run(theta, *started(theta, LARGE))
    assert int(result.outcome) == Outcome.RUNNING
    assert int(result.state.steps) == STEPS
    assert {name: leaf.shape for name, leaf in result.trace.items()} == {
        "energy": (STEPS,),
        "max_force": (STEPS,),
        "step_norm": (STEPS,),
        "steps": (STEPS,),
        "positions": (STEPS, 4, 3),
    }
    np.testing.assert_array_equal(result.trace["positions"][-1], result.state.positions)
    np.testing.assert_array_equal(result.trace["steps"], np.arange(1, STEPS + 1))
    assert float(result.residual) == float(result.trace["max_force"][-1])
    assert float(result.trace["energy"][-1]) < float(result.trace["energy"][0])


def test_the_limit_counts_displacements_and_not_calls(theta):
    """A state that has made steps makes only the remaining ones, and none beyond the last."""
    state, system = started(theta, LARGE)
    ten, all_ = (jax.jit(unrolling.unroll(RELAXATION, n)) for n in (10, STEPS))
    halfway = ten(theta, state, system).state
    continued = all_(theta, halfway, system).state
    at_once = all_(theta, state, system).state
    assert int(continued.steps) == STEPS
    np.testing.assert_array_equal(continued.positions, at_once.positions)
    again = all_(theta, at_once, system).state
    np.testing.assert_array_equal(again.positions, at_once.positions)


def test_compiled_once_for_all_structures_of_a_layout(theta):
    traces = []

    def counted(theta, state, system):
        traces.append(1)
        return unrolling.unroll(RELAXATION, 3)(theta, state, system)

    run = jax.jit(counted)
    state, system = started(theta, LARGE)
    for shift in (0.0, 0.1, 0.2):
        end = run(theta, state._replace(positions=state.positions + shift), system)
        # What comes out goes in again: same types, so no other trace.
        run(jax.tree.map(lambda x: x + 0.01, theta), end.state, system)
    assert len(traces) == 1


@pytest.mark.parametrize("num_steps", [0, -3, 2.0])
def test_misuse(num_steps):
    with pytest.raises(ValueError, match="num_steps must be a positive integer"):
        unrolling.unroll(RELAXATION, num_steps)


def test_stale_neighbors_stop_and_say_so(theta):
    result = jax.jit(unrolling.unroll(RELAXATION, STEPS))(theta, *started(theta, SMALL))
    assert int(result.outcome) == Outcome.STALE_NEIGHBORS
    assert 0 < int(result.state.steps) < STEPS


@pytest.mark.parametrize(
    "adjoint",
    [Checkpointed("force"), Checkpointed("segments"), Truncated(first=9), Guided(9), Truncated(last=2)],
    ids=["force", "segments", "first", "guided", "last"],
)
def test_gradient_through_rebuilds_is_that_of_one_run(theta, adjoint):
    run = jax.jit(unrolling.unroll(RELAXATION, STEPS, adjoint))
    state, system = started(theta, SMALL)
    result, segments = unrolling.relax_through_rebuilds(run, theta, state, system)
    assert len(segments) >= 3
    assert int(result.state.steps) == STEPS
    (value, mass), gradient = unrolling.value_and_grad_through_rebuilds(run, loss, theta, state, system)
    assert float(mass) == 28.0

    ample = started(theta, LARGE)
    (at_once, _), expected = unrolling.value_and_grad_through_rebuilds(run, loss, theta, *ample)
    assert len(unrolling.relax_through_rebuilds(run, theta, *ample)[1]) == 1
    assert float(value) == pytest.approx(float(at_once), rel=1e-11)
    for a, e in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-10)


def test_implicit_gradient_through_rebuilds():
    """Only the last stretch ends at the fixed point; those before must not be asked for one."""
    rule = relax.momentum(0.015, 0.5)
    relaxation = relax.relaxation(POTENTIAL, rule, force_tolerance=1e-9)
    run = jax.jit(unrolling.unroll(relaxation, 200, Implicit(tolerance=1e-11)))
    theta = Theta(POTENTIAL.init(None), rule.hyper)
    gradients = []
    for skin in (SMALL, LARGE):
        start = started(theta, skin, relaxation)
        gradients.append(unrolling.value_and_grad_through_rebuilds(run, loss, theta, *start)[1])
    for a, e in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert bool(jnp.isfinite(a))
        np.testing.assert_allclose(a, e, rtol=1e-6)


def test_too_many_rebuilds_are_an_error(theta):
    run = jax.jit(unrolling.unroll(RELAXATION, STEPS))
    with pytest.raises(RelaxationError, match=r"rebuilt 1 times .* cap the displacement"):
        unrolling.relax_through_rebuilds(run, theta, *started(theta, SMALL), max_rebuilds=1)
