"""Modules of Flax and Equinox through their adapters: short, and through the suite that everybody can run."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bptt_relax import neighbors, systems
from bptt_relax.conformance import PotentialConformance
from bptt_relax.potentials.adapters import from_equinox, from_linen, from_nnx

CUTOFF = 4.0


def fading(x, features):
    """Energies of edges from their features, zero from x = 1 on."""
    return features[:, 0] * jnp.where(x < 1, (1 - x * x) ** 3, 0.0)


def per_atom(energies, receivers, species):
    return jax.ops.segment_sum(energies, receivers, species.shape[0])


class Linen(nn.Module):
    @nn.compact
    def __call__(self, distances, receivers, species):
        x = distances / CUTOFF
        features = nn.Dense(1)(nn.tanh(nn.Dense(6)(x[:, None])))
        return per_atom(fading(x, features), receivers, species)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(1, 6, rngs=rngs), nnx.Linear(6, 1, rngs=rngs)

    def __call__(self, distances, receivers, species):
        x = distances / CUTOFF
        features = self.out(jnp.tanh(self.hidden(x[:, None])))
        return per_atom(fading(x, features), receivers, species)


def make_linen():
    edges = (jnp.ones(3), jnp.zeros(3, int), jnp.zeros(2, int))
    with jax.numpy_rank_promotion("allow"):
        return from_linen(Linen(), Linen().init(jax.random.key(0), *edges), CUTOFF)


def make_nnx():
    return from_nnx(Nnx(nnx.Rngs(0)), CUTOFF)


def make_equinox():
    eqx = pytest.importorskip("equinox", reason="equinox is not installed: pip install 'bptt-relax[equinox]'")

    class Module(eqx.Module):
        mlp: eqx.nn.MLP

        def __call__(self, distances, receivers, species):
            x = distances / CUTOFF
            return per_atom(fading(x, jax.vmap(self.mlp)(x[:, None])), receivers, species)

    return from_equinox(Module(eqx.nn.MLP(1, 1, 6, 1, key=jax.random.key(0))), CUTOFF)


@pytest.mark.parametrize("make", [make_linen, make_nnx, make_equinox])
def test_energies_of_atoms_are_summed_and_every_image_counts(make, make_silicon, make_structure):
    potential, params = make()

    @jax.jit
    def forces_and_energy(positions, system):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        return potential.apply(params, positions, system, graph)

    atoms = make_silicon(1)
    one = forces_and_energy(*systems.prepare(make_structure(atoms), potential.graph))
    two = forces_and_energy(*systems.prepare(make_structure(atoms.repeat((2, 1, 1))), potential.graph))
    assert abs(float(one.energy)) > 1e-3
    np.testing.assert_allclose(two.energy, 2 * one.energy, rtol=1e-10)
    np.testing.assert_allclose(two.forces[:7], one.forces, atol=1e-10)
    assert potential.apply_lean is not None


@pytest.mark.slow
class TestLinen(PotentialConformance):
    make = staticmethod(make_linen)


@pytest.mark.slow
class TestNnx(PotentialConformance):
    make = staticmethod(make_nnx)


@pytest.mark.slow
class TestEquinox(PotentialConformance):
    make = staticmethod(make_equinox)
