"""Objectives where the cell is relaxed too: gradients by differences, and each pair through its own relaxation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bptt_relax import losses, relax, systems, unrolling
from bptt_relax.potentials import stillinger_weber
from bptt_relax.relax import Theta
from bptt_relax.training import LabelledFrame, Objective, by_cell, force_matching, relaxed_structure

SKIN = 1.0


@pytest.fixture(scope="module")
def learning(make_silicon, make_structure):
    """A strained crystal of eight atoms, where the right parameters take it, and wrong ones."""
    potential = stillinger_weber()
    rule = relax.momentum(0.01, 0.5)
    free = relax.variable_cell_relaxation(potential, rule)
    truth = Theta(potential.init(None), rule.hyper)
    start = make_structure(make_silicon(1, vacancy=False), "crystal")
    positions, system = systems.prepare(start, potential.graph, skin=SKIN)
    run = jax.jit(unrolling.unroll(free, 60))
    end = run(truth, free.init(truth, positions, system), system).state
    relaxed = start._replace(positions=np.asarray(end.positions), cell=np.asarray(end.cell))
    pair = systems.prepare_pair(start, relaxed, potential.graph, skin=SKIN, free_cell=True)
    wrong = truth._replace(potential=truth.potential | {"sigma": truth.potential["sigma"] * 1.01})
    return potential, rule, free, pair, truth, wrong


def along(function, theta, gradient):
    """Derivative along a random direction by the gradient and by differences."""
    flat, restore = jax.flatten_util.ravel_pytree(theta)
    direction = jnp.asarray(np.random.default_rng(0).normal(size=flat.shape)) * jnp.maximum(abs(flat), 1.0)
    h = 1e-6
    difference = (function(restore(flat + h * direction)) - function(restore(flat - h * direction))) / (2 * h)
    return float(jnp.vdot(jax.flatten_util.ravel_pytree(gradient)[0], direction)), float(difference)


@pytest.fixture(scope="module")
def objective(learning):
    potential, _, free, _, truth, _ = learning
    return relaxed_structure(
        free,
        unrolling.unroll(free, 12),
        potential,
        cell_weight=0.5,
        softening=0.1,
        anchor=truth.potential,
        anchor_weight=2.0,
    )


@pytest.fixture(scope="module")
def value_and_grad(objective):
    return jax.jit(objective.value_and_grad)


def test_gradient_through_the_relaxation_of_the_cell(learning, value_and_grad):
    *_, pair, _, wrong = learning
    _, gradient = value_and_grad(wrong, pair)
    by_gradient, by_difference = along(lambda theta: value_and_grad(theta, pair)[0][0], wrong, gradient)
    assert by_gradient == pytest.approx(by_difference, rel=1e-6)
    assert abs(by_gradient) > 1e-2


@pytest.mark.slow
def test_gradient_through_rebuilds_of_the_neighbors_of_a_cell(learning, objective, value_and_grad):
    potential, _, _, pair, _, wrong = learning
    (value, _), gradient = value_and_grad(wrong, pair)
    tight = pair._replace(system=systems.with_neighbors(pair.initial, pair.system, potential.graph, skin=0.1))
    (again, _), rebuilt = objective.through_rebuilds(wrong, tight)
    assert float(again) == pytest.approx(float(value), rel=1e-9)
    for one, other in zip(jax.tree.leaves(rebuilt), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)


def test_learning_from_a_cell_brings_it_nearer(learning, value_and_grad):
    *_, pair, truth, wrong = learning
    optimizer = optax.adam(0.002)
    theta, state = wrong.potential, optimizer.init(wrong.potential)
    values = []
    for _ in range(20):
        (value, _), gradient = value_and_grad(wrong._replace(potential=theta), pair)
        updates, state = optimizer.update(gradient.potential, state, theta)
        theta = optax.apply_updates(theta, updates)
        values.append(float(value))
    # Twelve steps do not lead to the end even with the right parameters.
    least = float(value_and_grad(truth, pair)[0][0])
    assert values[-1] - least < 0.3 * (values[0] - least)
    before, after = (abs(p["sigma"] - truth.potential["sigma"]) for p in (wrong.potential, theta))
    assert after < before


def test_each_pair_goes_through_its_own_relaxation(learning):
    potential, rule, free, pair, _, wrong = learning
    given = pair._replace(relaxed_cell=None)

    def told(name):
        return Objective(lambda *_: name, lambda *_: f"{name} rebuilt", label=name)

    both = by_cell(told("given"), told("free"))
    assert [both.value_and_grad(wrong, one) for one in (given, pair)] == ["given", "free"]
    assert [both.through_rebuilds(wrong, one) for one in (given, pair)] == ["given rebuilt", "free rebuilt"]

    fixed = relax.relaxation(potential, rule)
    for relaxation, wanted in ((fixed, pair), (free, given)):
        objective = relaxed_structure(relaxation, unrolling.unroll(relaxation, 3), potential)
        with pytest.raises(ValueError, match="combine the two objectives with by_cell"):
            jax.eval_shape(objective.value_and_grad, wrong, wanted)


@pytest.mark.slow
def test_stresses_are_matched_where_frames_have_them(learning):
    potential, _, free, pair, truth, wrong = learning
    evaluate = jax.jit(free.evaluate)
    here = evaluate(truth, pair.initial, pair.system.cell, pair.system)
    frame = LabelledFrame(pair.initial, here.forces, pair.system, stress=here.stress)
    objective = jax.jit(force_matching(potential, stress_weight=0.7).value_and_grad)
    (exact, _), _ = objective(truth, frame)
    assert float(exact) == pytest.approx(0.0, abs=1e-20)
    (value, _), gradient = objective(wrong, frame)
    found = evaluate(wrong, pair.initial, pair.system.cell, pair.system)
    of_stress = losses.virial_huber(found.stress, here.stress, pair.system, delta=0.1)
    of_forces = losses.force_huber(found.forces, here.forces, pair.system, delta=0.1)
    assert float(of_stress) > 0 < float(of_forces)
    assert float(value) == pytest.approx(float(of_forces + 0.7 * of_stress), rel=1e-10)
    by_gradient, by_difference = along(lambda theta: objective(theta, frame)[0][0], wrong, gradient)
    assert by_gradient == pytest.approx(by_difference, rel=1e-6)
    # An unknown stress leaves the forces.
    unknown = frame._replace(stress=jnp.full((3, 3), jnp.nan))
    assert float(objective(wrong, unknown)[0][0]) == pytest.approx(float(of_forces), rel=1e-12)
    with pytest.raises(ValueError, match="something that has no stress"):
        force_matching(potential, stress_weight=1.0, forces=lambda *_: here.forces)
