"""Adapted potentials against what they were made from, and what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bptt_relax import neighbors, potentials, systems
from bptt_relax.potentials.adapters import from_energy_fn, from_equinox, from_linen, from_nnx, from_pair_fn

# Not yet seen to pass as a whole on a quiet machine; see the closing note of the session that wrote it.
pytestmark = pytest.mark.slow

MORSE = {"sigma": 2.35, "epsilon": 1.0, "alpha": 2.0}


@pytest.fixture
def morse():
    return {name: jnp.asarray(value) for name, value in MORSE.items()}


def predict(potential, params, structure, extra_atoms=1):
    """Prediction with a padded atom, and the gradient of its squared forces."""
    layout = systems.plan_layout([structure], potential.graph)
    layout = layout._replace(num_atoms=layout.num_atoms + extra_atoms)
    positions, system = systems.prepare(structure, potential.graph, layout)

    def answer(params):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        return potential.apply(params, positions, system, graph)

    gradient = jax.jit(jax.grad(lambda params: jnp.sum(answer(params).forces ** 2)))(params)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))
    return jax.jit(answer)(params)


@pytest.mark.slow
def test_jax_mds_neighbor_list_energies(morse, make_silicon, make_structure):
    """Sparse and dense lists agree; many-body Stillinger-Weber is ours; where images are missing there is no number."""
    from jax_md import energy, space

    atoms = make_silicon(2)
    structure = make_structure(atoms)
    displacement, _ = space.periodic_general(atoms.cell.array.T, fractional_coordinates=False)
    _, pair = energy.morse_neighbor_list(
        displacement, atoms.cell.array.T, r_onset=4.0, r_cutoff=5.0, fractional_coordinates=False
    )

    def energy_fn(params, R, neighbor, box):
        return pair(R, neighbor=neighbor, box=box, **params)

    sparse = predict(*from_energy_fn(energy_fn, morse, 5.0), structure)
    dense = predict(*from_energy_fn(energy_fn, morse, 5.0, neighbors_per_atom=40), structure)
    np.testing.assert_allclose(dense.forces, sparse.forces, atol=1e-10)
    np.testing.assert_allclose(dense.stress, sparse.stress, atol=1e-12)
    assert np.isnan(predict_energy(from_energy_fn(energy_fn, morse, 5.0), make_structure(make_silicon(1))))
    assert np.isnan(predict_energy(from_energy_fn(energy_fn, morse, 5.0, neighbors_per_atom=10), structure))

    ours = potentials.stillinger_weber()
    _, many_body = energy.stillinger_weber_neighbor_list(displacement, atoms.cell.array.T, cutoff=ours.cutoff)

    def three_body(params, R, neighbor, box):
        return params["scale"] * many_body(R, neighbor=neighbor, box=box)

    adapted = from_energy_fn(three_body, {"scale": jnp.ones(())}, ours.cutoff, neighbors_per_atom=24)
    expected = predict(ours, ours.init(None), structure)
    found = predict(*adapted, structure)
    # jax-md's default constants have fewer digits than ours.
    np.testing.assert_allclose(found.forces, expected.forces, atol=2e-3)


def predict_energy(adapted, structure):
    potential, params = adapted
    positions, system = systems.prepare(structure, potential.graph)
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    return float(jax.jit(potential.apply)(params, positions, system, graph).energy)


def radial(x, features):
    """Energies of atoms from features of edges, fading at 4 angstrom."""
    return features[:, 0] * jnp.where(x < 1, (1 - x * x) ** 3, 0.0)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, distances, receivers, species):
        x = distances / 4.0
        energies = radial(x, nn.Dense(1)(nn.tanh(nn.Dense(6)(x[:, None]))))
        return jax.ops.segment_sum(energies, receivers, species.shape[0])


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(1, 6, rngs=rngs), nnx.Linear(6, 1, rngs=rngs)

    def __call__(self, distances, receivers, species):
        x = distances / 4.0
        energies = radial(x, self.out(jnp.tanh(self.hidden(x[:, None]))))
        return jax.ops.segment_sum(energies, receivers, species.shape[0])


def linen():
    edges = (jnp.ones(3), jnp.zeros(3, int), jnp.zeros(2, int))
    with jax.numpy_rank_promotion("allow"):
        return from_linen(Linen(), Linen().init(jax.random.key(0), *edges), 4.0)


def equinox_module():
    eqx = pytest.importorskip("equinox", reason="equinox is not installed")

    class Module(eqx.Module):
        mlp: eqx.nn.MLP

        def __call__(self, distances, receivers, species):
            x = distances / 4.0
            energies = radial(x, jax.vmap(self.mlp)(x[:, None]))
            return jax.ops.segment_sum(energies, receivers, species.shape[0])

    return from_equinox(Module(eqx.nn.MLP(1, 1, 6, 1, key=jax.random.key(0))), 4.0)


@pytest.mark.parametrize(
    "make", [linen, lambda: from_nnx(Nnx(nnx.Rngs(0)), 4.0), equinox_module], ids=["linen", "nnx", "equinox"]
)
def test_modules(make, make_silicon, make_structure):
    """Energies of atoms are summed, every image counts, padding is nothing."""
    potential, params = make()
    atoms = make_silicon(1)
    one = predict(potential, params, make_structure(atoms))
    two = predict(potential, params, make_structure(atoms.repeat((2, 1, 1))), extra_atoms=0)
    np.testing.assert_allclose(two.energy, 2 * one.energy, rtol=1e-6)
    np.testing.assert_allclose(two.forces[:7], one.forces[:7], atol=1e-6)
    assert potential.apply_lean is not None


def test_what_cannot_be_right_is_refused_when_it_is_built():
    def asks_for_more(params, positions, mask, charges): ...

    def sees_no_padding(params, positions, cell): ...

    def mixes(params, vectors, positions): ...

    with pytest.raises(ValueError, match="charges, which is not offered"):
        from_energy_fn(asks_for_more, {}, 5.0)
    with pytest.raises(ValueError, match="let it ask for mask or species"):
        from_energy_fn(sees_no_padding, {}, 5.0)
    with pytest.raises(ValueError, match="asks for edges and for positions"):
        from_energy_fn(mixes, {}, 5.0)
    with pytest.raises(ValueError, match="no 'params'"):
        from_linen(Linen(), {"batch_stats": {}}, 4.0)
    with pytest.raises(ValueError, match="fade=6"):
        from_pair_fn(lambda params, r: r, {}, 5.0, fade=6.0)
