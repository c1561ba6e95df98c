"""Sensitivity against finite differences on one atom in a well, and how far two models are apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import losses, relax
from bptt_relax.finetuning.preference import end_shift, make_sensitivity, movement
from bptt_relax.relax import Theta
from bptt_relax.systems import plan_layout, prepare_pair
from bptt_relax.trees import global_norm
from bptt_relax.unrolling import unroll


@pytest.fixture
def problem(springs, make_silicon, make_structure):
    structure = make_structure(make_silicon(1))
    moved = np.random.default_rng(0).normal(scale=0.05, size=structure.positions.shape)
    relaxed = structure._replace(positions=structure.positions + moved)
    relaxation = relax.relaxation(springs.potential, relax.momentum(0.02, 0.5))
    theta = Theta(springs.params, relax.momentum(0.02, 0.5).hyper)
    layout = plan_layout([structure, relaxed], springs.potential.graph, skin=1.0)
    return relaxation, theta, prepare_pair(structure, relaxed, springs.potential.graph, layout, skin=1.0)


def test_sensitivity_is_the_norm_of_finite_differences(problem):
    relaxation, theta, pair = problem
    found = make_sensitivity(relaxation, (3, 1))(theta, pair)
    assert found.steps == (3, 1)

    @jax.jit
    def ends(theta):
        return {
            steps: losses.delta_q(
                unroll(relaxation, steps)(
                    theta, relaxation.init(theta, pair.initial, pair.system), pair.system
                ).state.positions,
                pair.relaxed,
                pair.system,
            )
            for steps in found.steps
        }

    leaves, structure = jax.tree.flatten(theta)
    for index, steps in enumerate(found.steps):
        slopes = []
        for i, leaf in enumerate(leaves):
            h = 1e-5
            at = [
                float(
                    ends(jax.tree.unflatten(structure, [*leaves[:i], leaf + s * h, *leaves[i + 1 :]]))[steps]
                )
                for s in (1, -1)
            ]
            slopes.append(jnp.asarray((at[0] - at[1]) / (2 * h)))
        slopes = jax.tree.unflatten(structure, slopes)
        size = float(global_norm(theta.potential))
        assert found.potential[index] == pytest.approx(float(global_norm(slopes.potential)) * size, rel=1e-5)
        assert found.rule[index] == pytest.approx(float(global_norm(slopes.rule)), rel=1e-5)


def test_steps_below_one_are_refused(problem):
    with pytest.raises(ValueError, match="positive"):
        make_sensitivity(problem[0], (0, 3))


def test_movement_and_shift(problem):
    _, theta, pair = problem
    later = theta._replace(
        potential=jax.tree.map(lambda x: 1.1 * x, theta.potential),
        rule=theta.rule | {"log_step_size": theta.rule["log_step_size"] + 0.2},
    )
    found = movement(theta, later)
    assert found.potential == pytest.approx(0.1)
    assert found.rule == pytest.approx(0.2)
    assert movement(theta, theta).rule == 0.0
    real = int(np.sum(pair.system.mask))
    start, end = np.asarray(pair.initial)[:real], np.asarray(pair.relaxed)[:real]
    assert end_shift([start], [end], [pair]) == pytest.approx(
        [float(losses.delta_q(pair.initial, pair.relaxed, pair.system))]
    )
