"""Adapted potentials against what they were made from, and what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import neighbors, potentials, systems
from bptt_relax.potentials.adapters import from_energy_fn, from_linen, from_pair_fn

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

    def energy_fn(params, R, neighbor, box, perturbation):
        return pair(R, neighbor=neighbor, box=box, perturbation=perturbation, **params)

    sparse = predict(*from_energy_fn(energy_fn, morse, 5.0), structure)
    dense = predict(*from_energy_fn(energy_fn, morse, 5.0, neighbors_per_atom=40), structure)
    np.testing.assert_allclose(dense.forces, sparse.forces, atol=1e-10)
    np.testing.assert_allclose(dense.stress, sparse.stress, atol=1e-12)
    assert np.isnan(predict_energy(from_energy_fn(energy_fn, morse, 5.0), make_structure(make_silicon(1))))
    assert np.isnan(predict_energy(from_energy_fn(energy_fn, morse, 5.0, neighbors_per_atom=10), structure))

    ours = potentials.stillinger_weber()
    _, many_body = energy.stillinger_weber_neighbor_list(displacement, atoms.cell.array.T, cutoff=ours.cutoff)

    def three_body(params, R, neighbor, box, perturbation):
        return params["scale"] * many_body(R, neighbor=neighbor, box=box, perturbation=perturbation)

    adapted = from_energy_fn(three_body, {"scale": jnp.ones(())}, ours.cutoff, neighbors_per_atom=24)
    expected = predict(ours, ours.init(None), structure)
    found = predict(*adapted, structure)
    # jax-md's default constants have fewer digits than ours.
    np.testing.assert_allclose(found.forces, expected.forces, atol=2e-3)
    np.testing.assert_allclose(found.stress, expected.stress, atol=1e-5)

    def unperturbed(params, R, neighbor, box):
        return three_body(params, R, neighbor, box, jnp.eye(3))

    without = from_energy_fn(unperturbed, {"scale": jnp.ones(())}, ours.cutoff, neighbors_per_atom=24)
    assert without[0].predicts == ("energy", "forces")
    assert predict(*without, structure).stress is None, "jax-md's derivative by the box is no stress"


def predict_energy(adapted, structure):
    potential, params = adapted
    positions, system = systems.prepare(structure, potential.graph)
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    return float(jax.jit(potential.apply)(params, positions, system, graph).energy)


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
        from_linen(nn.Dense(1), {"batch_stats": {}}, 4.0)
    with pytest.raises(ValueError, match="fade=6"):
        from_pair_fn(lambda params, r: r, {}, 5.0, fade=6.0)
