"""Gradients over batches: the mean of single ones, whatever shapes, order, micro-batches and devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import relax, systems, trees, unrolling
from bptt_relax.neighbors import GraphSpec
from bptt_relax.outcomes import Outcome
from bptt_relax.potentials import conservative
from bptt_relax.relax import Theta
from bptt_relax.training import Example, Gradients, Objective, by_cell, gradient_sum, relaxed_structure
from bptt_relax.training import gradients as gradients_module

CUTOFF = 4.0


def energy(params, vectors, system, graph):
    """A pair potential that compiles in a moment."""
    squared = jnp.where(graph.mask, jnp.sum(vectors**2, axis=1), CUTOFF**2)
    inside = jnp.maximum(1 - squared / CUTOFF**2, 0.0) ** 3
    pairs = params["depth"] * inside * jnp.cos(params["turn"] * squared)
    return 0.5 * jnp.sum(jnp.where(graph.mask, pairs, 0.0))


def make_potential():
    params = {"depth": jnp.asarray(2.0), "turn": jnp.asarray(0.3)}
    return conservative(energy, lambda key: params, GraphSpec(CUTOFF))


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.fixture(scope="module")
def mixed(make_silicon, make_structure):
    """Structures of different size, padding and constraint, in given and in free cells; and their objective."""
    potential = make_potential()
    rule = relax.momentum(0.01, 0.5)
    given, free = relax.relaxation(potential, rule), relax.variable_cell_relaxation(potential, rule)
    ends = [relaxed_structure(way, unrolling.unroll(way, 6), potential) for way in (given, free)]
    objective = by_cell(*ends)
    theta = Theta(potential.init(None), rule.hyper)
    examples = []
    shared = None
    for seed, (vacancy, held, moves) in enumerate(
        [
            (True, False, False),
            (False, False, False),
            (True, True, False),
            (False, False, True),
            (True, False, False),
        ]
    ):
        structure = make_structure(make_silicon(1, seed=seed, vacancy=vacancy), f"structure {seed}")
        if held:
            mobile = structure.free.copy()
            mobile[0] = False
            structure = structure._replace(free=mobile)
        target = structure._replace(positions=structure.positions + 0.05 * np.sin(structure.positions))
        layout = systems.plan_layout([structure], potential.graph, headroom=1.6 if seed == 4 else 1.3)
        if seed == 4:
            layout = layout._replace(num_atoms=layout.num_atoms + 5)
        if vacancy and seed != 4:
            # The first and the third are of one shape.
            layout = shared = shared or layout
        pair = systems.prepare_pair(structure, target, potential.graph, layout, free_cell=moves)
        examples.append(Example(structure.name, trees.on_host(pair)))
    return objective, theta, examples


@pytest.fixture(scope="module")
def singles(mixed):
    objective, theta, examples = mixed
    one = jax.jit(objective.value_and_grad)
    return [one(theta, example.data) for example in examples]


@pytest.mark.parametrize("mapping", ["in_turn", "side_by_side"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1)])
def test_a_batch_is_the_mean_of_its_structures(mixed, singles, mapping, order):
    objective, theta, examples = mixed
    found = Gradients([objective], mapping=mapping)(theta, [examples[k] for k in order])
    expected = np.mean([flat(gradient) for _, gradient in singles], axis=0)
    assert found.count == len(examples)
    assert not found.left_out
    np.testing.assert_allclose(flat(found.mean), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
    assert found.loss / found.count == pytest.approx(np.mean([v for (v, _), _ in singles]), rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_change_nothing(mixed, singles, size):
    objective, theta, examples = mixed
    alike = [examples[0], examples[0], examples[2], examples[0], examples[2]]
    gradients = Gradients([objective], mapping="side_by_side", devices=jax.devices()[:1])
    gradients.prepare(theta, alike[0], size)
    assert [plan.size for plan in gradients.plans] == [size]
    found = gradients(theta, alike)
    expected = np.mean([flat(singles[k][1]) for k in (0, 0, 2, 0, 2)], axis=0)
    np.testing.assert_allclose(flat(found.mean), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("mapping", ["in_turn", "side_by_side"])
def test_what_is_not_finite_is_left_out_and_named(mixed, singles, mapping):
    objective, theta, examples = mixed

    def poisoned(theta, example):
        pair, poison = example
        (value, outcome), gradient = objective.value_and_grad(theta, pair)
        # Loss and gradient are finite by themselves: the fault is in a zero times NaN of the gradient alone.
        return (value, outcome), jax.tree.map(lambda leaf: leaf + 0.0 * poison, gradient)

    poison = (0.0, np.nan, 0.0, 0.0, np.inf)
    batch = [Example(e.name, (e.data, np.asarray(p))) for e, p in zip(examples, poison, strict=True)]
    found = Gradients([Objective(poisoned)], mapping=mapping)(theta, batch)
    assert {each.name for each in found.left_out} == {"structure 1", "structure 4"}
    assert all("not finite" in each.reason for each in found.left_out)
    expected = np.mean([flat(singles[k][1]) for k in (0, 2, 3)], axis=0)
    np.testing.assert_allclose(flat(found.mean), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_a_batch_without_a_usable_example_has_no_gradient(mixed):
    _, theta, examples = mixed

    def nothing(theta, example):
        return (jnp.asarray(jnp.nan), jnp.asarray(int(Outcome.RUNNING))), jax.tree.map(jnp.zeros_like, theta)

    found = Gradients([Objective(nothing)])(theta, examples[:2])
    assert found.total is None
    assert found.count == 0
    assert len(found.left_out) == 2


def test_stale_neighbors_are_rebuilt_and_their_structure_added(mixed, singles):
    objective, theta, examples = mixed
    pair = jax.tree.map(jnp.asarray, examples[0].data)
    tight = systems.with_neighbors(pair.initial, pair.system, GraphSpec(CUTOFF), skin=0.02)
    stale = Example("stale", trees.on_host(pair._replace(system=tight)))
    found = Gradients([objective])(theta, [examples[2], stale])
    assert found.count == 2
    assert found.compiled
    expected = np.mean([flat(singles[k][1]) for k in (0, 2)], axis=0)
    np.testing.assert_allclose(flat(found.mean), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    without = Gradients([objective._replace(through_rebuilds=None)])(theta, [examples[2], stale])
    assert [each.name for each in without.left_out] == ["stale"]
    assert "skin" in without.left_out[0].reason


def test_memory_decides_how_many_are_taken_at_once(mixed, singles, monkeypatch):
    """Half as many side by side where the compiled program asks for more than there is; the gradient stays."""
    objective, theta, examples = mixed
    events = []
    monkeypatch.setattr(
        gradients_module, "program_bytes", lambda program: 1000 * program.in_avals[0][2].shape[0]
    )
    gradients = Gradients(
        [objective],
        mapping="side_by_side",
        devices=jax.devices()[:1],
        memory_budget=2500,
        on_event=events.append,
    )
    found = gradients(theta, [examples[0]] * 4)
    assert [plan.size for plan in gradients.plans] == [2]
    assert [event["event"] for event in events] == ["out_of_memory"]
    np.testing.assert_allclose(flat(found.mean), flat(singles[0][1]), rtol=1e-12, atol=1e-13)


def test_where_memory_runs_out_the_next_way_takes_over(mixed, singles):
    objective, theta, examples = mixed
    attempts, events = [], []

    def greedy(theta, pair):
        attempts.append(1)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes.")

    ways = [Objective(greedy, label="a greedy one"), objective._replace(label="a lean one")]
    one = {"mapping": "side_by_side", "devices": jax.devices()[:1]}
    gradients = Gradients(ways, on_event=events.append, **one)
    for _ in range(2):
        found = gradients(theta, examples[:1])
        np.testing.assert_allclose(flat(found.mean), flat(singles[0][1]), rtol=1e-12, atol=1e-13)
    assert len(attempts) == 1
    assert [("greedy" in e["tried"], "lean" in e["instead"]) for e in events] == [(True, True)]
    with pytest.raises(MemoryError, match="structure 0, even with a greedy one"):
        Gradients(ways[:1], **one)(theta, examples[:1])


def test_the_pure_sum_is_what_users_compose(mixed, singles):
    objective, theta, examples = mixed
    stacked = trees.stack([examples[0].data, examples[2].data])
    found = jax.jit(gradient_sum(objective))(theta, stacked, jnp.asarray([True, False]))
    assert int(found.count) == 1
    np.testing.assert_allclose(flat(found.total), flat(singles[0][1]), rtol=1e-12, atol=1e-13)


DEVICES = """
import sys, numpy as np, jax
jax.config.update("jax_enable_x64", True)
sys.path.insert(0, sys.argv[1])
from ase.build import bulk
from bptt_relax import relax, systems, trees, unrolling
from bptt_relax.io import to_structure
from bptt_relax.neighbors import GraphSpec
from bptt_relax.potentials import conservative
from bptt_relax.relax import Theta
from bptt_relax.training import Example, Gradients, relaxed_structure
import jax.numpy as jnp

def energy(params, vectors, system, graph):
    squared = jnp.where(graph.mask, jnp.sum(vectors**2, axis=1), 16.0)
    pairs = params["depth"] * jnp.maximum(1 - squared / 16.0, 0.0) ** 3 * jnp.cos(0.3 * squared)
    return 0.5 * jnp.sum(jnp.where(graph.mask, pairs, 0.0))

potential = conservative(energy, lambda key: {"depth": jnp.asarray(2.0)}, GraphSpec(4.0))
rule = relax.momentum(0.01, 0.5)
way = relax.relaxation(potential, rule)
objective = relaxed_structure(way, unrolling.unroll(way, 4), potential)
theta = Theta(potential.init(None), rule.hyper)
examples = []
for seed in range(5):
    atoms = bulk("Si", cubic=True, a=5.5)
    atoms.positions += 0.1 * np.random.default_rng(seed).normal(size=atoms.positions.shape)
    structure = to_structure(atoms, str(seed))
    layout = systems.plan_layout([structure], potential.graph, headroom=1.5)
    layout = layout if not examples else known
    known = layout
    target = structure._replace(positions=structure.positions * 1.001)
    examples.append(Example(str(seed), trees.on_host(systems.prepare_pair(structure, target, potential.graph, layout))))
assert len(jax.devices()) == 4
results = {}
for devices in (1, 2, 4):
    for count in (5, 1):
        gradients = Gradients([objective], mapping="side_by_side", devices=jax.devices()[:devices])
        found = gradients(theta, examples[:count])
        assert found.count == count, (devices, count, found)
        mean = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found.mean)])
        results.setdefault(count, []).append(mean)
        (plan,) = gradients.plans
        assert plan.size % devices == 0 and plan.size >= count
default = Gradients([objective])
assert np.isfinite(default(theta, examples).loss)
assert default.plans[0].size == 8  # five structures on four devices, by default on all of them
for count, means in results.items():
    for mean in means[1:]:
        np.testing.assert_allclose(mean, means[0], rtol=1e-10, atol=1e-10 * np.abs(means[0]).max())
print("same")
"""


def test_one_two_and_four_devices_give_the_same(tmp_path):
    """Uneven batches, and more devices than structures, too."""
    script = tmp_path / "devices.py"
    script.write_text(DEVICES)
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, str(script), root], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "same"
