"""SevenNet: derivatives across the onset of the envelope, padding and modalities of a small one; published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import models, neighbors, potentials, systems
from bptt_relax.models import pretrained, sevennet
from bptt_relax.models._contract import family
from bptt_relax.models.sevennet import weights as sevennet_weights
from bptt_relax.models.sevennet.network import envelope
from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.weights.published import Published
from bptt_relax.weights.registry import MODELS

SMALL = sevennet.Config(
    species=(8, 14),
    channels=(4, 3, 2),
    cutoff=4.0,
    onset=3.5,
    radial_widths=(6,),
    denominators=(6.0, 6.0),
    scale=0.5,
    modalities=2,
    modality=1,
)
PUBLISHED = {"sevennet-0": 842_529, "sevennet-l3i5": 1_171_233, "sevennet-mf-0-r2scan": 846_074}
"""Numbers of parameters."""


@pytest.fixture(scope="module")
def potential():
    return sevennet.build(SMALL, name="small sevennet")


@pytest.fixture(scope="module")
def params(potential):
    params = potential.init(jax.random.key(0))
    return {**params, "reference_energies": jnp.array([[-9.0, -9.0], [-2.0, -5.0]])}


def dimer(r):
    """Silicon and oxygen at a distance in a large cell."""
    return systems.Structure(
        "dimer",
        np.array([14, 8]),
        np.array([28.0, 16.0]),
        np.array([[0.0, 0, 0], [0.2, 0.1, r]]),
        12.0 * np.eye(3),
        np.ones(3, bool),
        np.ones((2, 3), bool),
    )


@pytest.fixture(scope="module")
def along(potential):
    """(params, z of the second atom) -> energy and forces of the dimer."""
    layout = systems.Layout(3, neighbors.Capacity(64, 32, 0, 0))
    start, system = systems.prepare(dimer(3.4), potential.graph, layout, skin=2.0)

    @jax.jit
    def along(params, z):
        positions = start.at[1, 2].set(z)
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        found = potential.apply(params, positions, system, graph)
        return found.energy, found.forces

    return along


@pytest.mark.parametrize("z", [3.3, 3.49, 3.51, 3.9])
def test_first_and_second_derivatives_around_the_onset_are_differences(along, params, z):
    force = jax.jit(lambda z: along(params, z)[1][1, 2])
    h = 1e-4
    energies = [float(along(params, z + s * h)[0]) for s in (-1, 1)]
    np.testing.assert_allclose(force(z), -(energies[1] - energies[0]) / (2 * h), rtol=1e-6, atol=1e-9)
    forces = [float(force(z + s * h)) for s in (-1, 1)]
    np.testing.assert_allclose(jax.grad(force)(z), (forces[1] - forces[0]) / (2 * h), rtol=1e-5, atol=1e-7)


def test_forces_do_not_jump_at_the_onset_or_the_cutoff(along, params):
    at_cutoff = float(np.sqrt(SMALL.cutoff**2 - 0.05))
    at_onset = float(np.sqrt(SMALL.onset**2 - 0.05))
    for z in (at_onset, at_cutoff):
        below, above = (along(params, z + s * 1e-7)[1] for s in (-1, 1))
        np.testing.assert_allclose(below, above, atol=1e-6)
    (energy, forces), (far, _) = (along(params, at_cutoff + beyond) for beyond in (0.01, 0.3))
    assert float(energy) == float(far)
    np.testing.assert_array_equal(forces, 0.0)


@pytest.mark.parametrize("config", [SMALL, SMALL._replace(onset=0.0)], ids=["XPLOR", "polynomial"])
def test_the_envelope_falls_from_one_to_zero(config):
    lengths = jnp.linspace(0.05, 4.5, 90)
    factor = envelope(lengths, config)
    assert float(factor[0]) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(factor[lengths >= 4.0], 0.0)
    assert bool(jnp.all(jnp.diff(factor) <= 1e-12))


def test_the_modality_chooses_rows_and_nothing_else(potential, params):
    layout = systems.Layout(3, neighbors.Capacity(64, 32, 0, 0))
    positions, system = systems.prepare(dimer(2.0), potential.graph, layout)

    @jax.jit
    @jax.grad
    def slope(params):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        return potential.apply(params, positions, system, graph).energy

    found, used, unused = slope(params), SMALL.modality, 1 - SMALL.modality
    np.testing.assert_array_equal(found["reference_energies"][unused], 0.0)
    np.testing.assert_array_equal(found["reference_energies"][used], [1.0, 1.0])
    rows = found["hidden"]["degree_0"][-SMALL.modalities :]
    assert not jnp.any(rows[unused])
    assert bool(jnp.all(rows[used] != 0))


def test_reference_energies_do_not_train(params):
    may_train = potentials.trainable(params)
    assert may_train["reference_energies"] is False
    assert may_train["frequencies"] is True


# Published ones.


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request, tmp_path_factory):
    """Name, weights of a published model as they were read from its checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BPTT_RELAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            weights, _ = pretrained.find(request.param)
        except ModelError as error:
            pytest.skip(f"no weights: {error}")
    return request.param, weights


def test_published_weights_make_the_network_and_go_back(published):
    name, weights = published
    kind, model = family(MODELS[name]), MODELS[name]
    potential, params = kind.build(weights, model, name)
    assert sum(x.size for x in jax.tree.leaves(params)) == PUBLISHED[name]
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(potential.init, jax.random.key(0)))
    assert jax.tree.map(jnp.shape, params) == shapes
    config = sevennet_weights.read_config(weights.arguments, weights.arrays, model.modality, name)
    assert sorted(config.species) == sorted(model.elements)
    assert config.cutoff == model.cutoff
    back = kind.unload(params, weights)
    file = kind.original.encode(back)
    again = kind.convert(Published(file, "again.pth", ""), model)
    assert again.arguments == weights.arguments
    assert again.arrays.keys() == weights.arrays.keys()
    for key, array in weights.arrays.items():
        np.testing.assert_array_equal(again.arrays[key], array)


def test_what_the_network_does_not_have_is_refused(published):
    name, weights = published
    model = MODELS[name]
    kind = family(model)
    changed = weights._replace(arguments=weights.arguments | {"is_parity": True})
    with pytest.raises(InputError, match="tuned has is_parity=True; only False is implemented"):
        kind.build(changed, model, "tuned")
    lacking = {k: v for k, v in weights.arrays.items() if k != "reduce_hidden_to_energy.linear.weight"}
    with pytest.raises(InputError, match="tuned lacks reduce_hidden_to_energy"):
        kind.build(weights._replace(arrays=lacking), model, "tuned")
    broken = weights.arrays | {
        "rescale_atomic_energy.shift": np.nan * weights.arrays["rescale_atomic_energy.shift"]
    }
    with pytest.raises(InputError, match="shift holds NaN"):
        kind.build(weights._replace(arrays=broken), model, "tuned")
    if model.modality:
        with pytest.raises(InputError, match=r"tuned knows R2SCAN, PBE, not .PBE0.: choose one"):
            kind.build(weights, model._replace(modality="PBE0"), "tuned")


def test_names_of_the_registry_are_those_of_the_package():
    assert {name for name in models.names() if name.startswith("sevennet")} == {
        "sevennet-0",
        "sevennet-0-22may2024",
        "sevennet-l3i5",
        "sevennet-mf-0",
        "sevennet-mf-0-r2scan",
    }
