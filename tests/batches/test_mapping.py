"""One function over many structures: as one by one, and nothing passes from one to another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import batches, relax, systems, trees, unrolling
from bptt_relax.relax import Theta

MAPPINGS = ("in_turn", "side_by_side")


@pytest.fixture(scope="module")
def case(potential, mixed, plan):
    """A loss of where five steps lead, and four structures of different size and cell."""
    rule = relax.momentum(0.02, 0.5)
    relaxation = relax.relaxation(potential, rule)
    run = unrolling.unroll(relaxation, 5)
    (bucket,) = plan(mixed[:4])
    prepared = [systems.prepare(s, potential.graph, bucket.layout) for s in mixed[:4]]
    theta = Theta(potential.init(jax.random.key(0)), rule.hyper)

    def loss(theta, positions, system):
        result = run(theta, relaxation.init(theta, positions, system), system)
        moved = jnp.where(system.mask[:, None], result.state.positions - positions, 0.0)
        return jnp.sum(moved**2)

    return loss, theta, prepared


@pytest.fixture(scope="module")
def one_by_one(case):
    loss, theta, prepared = case
    alone = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return [alone(theta, *one) for one in prepared]


@pytest.fixture(scope="module")
def together(case):
    """value_and_grad with respect to theta and positions, mapped, by mapping."""
    loss = case[0]
    alone = jax.value_and_grad(loss, argnums=(0, 1))
    return {mapping: jax.jit(batches.over_structures(alone, mapping)) for mapping in MAPPINGS}


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_values_and_gradients_are_those_of_one_by_one(case, one_by_one, together, mapping):
    _, theta, prepared = case
    found = together[mapping](theta, *trees.stack(prepared))
    for k, wanted in enumerate(one_by_one):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
            trees.take(found, k),
            wanted,
        )


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_broken_structure_breaks_no_other(case, one_by_one, together, mapping):
    _, theta, prepared = case
    positions, system = trees.stack(prepared)
    # Two atoms at one place: not a number anywhere.
    positions = positions.at[2, 1].set(positions[2, 0])
    values, (by_theta, by_positions) = together[mapping](theta, positions, system)
    broken = np.array([not bool(trees.all_finite(trees.take((values, by_theta), k))) for k in range(4)])
    assert broken.tolist() == [False, False, True, False]
    for k in (0, 1, 3):
        np.testing.assert_allclose(by_positions[k], one_by_one[k][1][1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_no_gradient_passes_from_one_structure_to_another(case, mapping):
    loss, theta, prepared = case
    positions, system = trees.stack(prepared)
    mapped = batches.over_structures(loss, mapping)
    (slope,) = jax.jit(jax.grad(lambda x: mapped(theta, x, system)[1], argnums=(0,)))(positions)
    norms = np.linalg.norm(np.asarray(slope), axis=(1, 2))
    assert norms[1] > 1e-3
    assert norms[[0, 2, 3]].tolist() == [0.0, 0.0, 0.0]


def test_by_default_in_turn_on_a_cpu():
    wanted = "in_turn" if jax.default_backend() == "cpu" else "side_by_side"
    assert batches.mapping.choose_mapping(None) == wanted
    with pytest.raises(ValueError, match="got 'vmap'"):
        batches.over_structures(lambda theta: theta, "vmap")
