"""Replay on a made-up pair potential that covers every element."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import trees
from bptt_relax.datasets import prototypes
from bptt_relax.neighbors import GraphSpec
from bptt_relax.potentials import conservative, direct, stillinger_weber
from bptt_relax.relax import Theta
from bptt_relax.training import agreement, gradient_sum, record

CUTOFF = 4.0


def energy(params, vectors, system, graph):
    squared = jnp.where(graph.mask, jnp.sum(vectors**2, axis=1), CUTOFF**2)
    inside = jnp.maximum(1 - squared / CUTOFF**2, 0.0) ** 3
    pairs = 0.5 * jnp.sum(
        jnp.where(graph.mask, params["strength"] * inside * jnp.cos(params["turn"] * squared), 0.0)
    )
    return pairs + params["shift"] * jnp.sum(system.mask)


@pytest.fixture(scope="module")
def potential():
    params = {"strength": jnp.asarray(2.0), "turn": jnp.asarray(0.3), "shift": jnp.asarray(-3.0)}
    return conservative(energy, lambda key: params, GraphSpec(CUTOFF))


@pytest.fixture(scope="module")
def frames(potential):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prototypes, "REPLAY", prototypes.REPLAY[-3:])
        yield record(potential, potential.init(None), without=[frozenset({56, 8, 22})])


def loss_of(potential, frames):
    """Mean over the frames."""
    batch = trees.stack(list(frames))
    add_up = jax.jit(gradient_sum(agreement(potential)))

    def ask(**changes):
        found = add_up(Theta(potential.init(None) | changes, {}), batch, jnp.ones(len(frames), bool))
        assert int(found.count) == len(frames)
        mean = jax.tree.map(lambda leaf: leaf / found.count, found.total)
        return (jnp.mean(found.reports.loss), found.reports.outcome), mean

    return ask


def test_the_pretrained_model_agrees_with_itself(potential, frames):
    (value, _), gradient = loss_of(potential, frames)()
    assert float(value) == pytest.approx(0.0, abs=1e-20)
    assert max(abs(float(leaf)) for leaf in jax.tree.leaves(gradient)) < 1e-9


def test_crystals_are_squeezed_rattled_and_pairs_pushed_together(frames):
    assert len(frames) == 2 * (4 + 4 + 3)
    compositions = {tuple(sorted(set(np.asarray(f.system.species).tolist()) - {0})) for f in frames}
    assert compositions == {(4, 8), (8, 50)}, "BaTiO3 was left out"
    assert sum(not bool(f.system.pbc.any()) for f in frames) == 6


@pytest.mark.parametrize("name", ["strength", "turn", "shift"])
def test_every_change_is_seen_and_its_gradient_is_right(potential, frames, name):
    ask = loss_of(potential, frames)
    value = potential.init(None)[name]
    here = value * 1.05
    (loss, _), gradient = ask(**{name: here})
    assert float(loss) > 1e-5, "a shift of all energies too"
    step = 1e-6
    (ahead, _), _ = ask(**{name: here + step})
    (behind, _), _ = ask(**{name: here - step})
    expected = float(ahead - behind) / (2 * step)
    assert float(gradient.potential[name]) == pytest.approx(expected, rel=1e-5)


def test_a_potential_of_other_elements_has_nothing_to_replay():
    potential = stillinger_weber()
    assert record(potential, potential.init(None)) == []


def test_direct_forces_are_replayed_without_an_energy(potential, frames):
    def pull(params, positions, system, graph):
        return potential.apply(params, positions, system, graph).forces

    bare = direct(pull, potential.init, potential.graph)
    without = [frame._replace(energy=None, stress=None) for frame in frames]
    (value, _), gradient = loss_of(bare, without)(strength=jnp.asarray(2.1))
    (with_energy, _), _ = loss_of(potential, frames)(strength=jnp.asarray(2.1))
    assert 0.0 < float(value) < float(with_energy)
    assert float(jnp.abs(gradient.potential["strength"])) > 0.0
    assert float(gradient.potential["shift"]) == 0.0
