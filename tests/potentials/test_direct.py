"""Direct forces: no energy and no stress anywhere, and nobody is handed one by mistake."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet

from bptt_relax import batches, neighbors, potentials, relax, systems, trees, unrolling
from bptt_relax.adjoints import Checkpointed, FrozenGeometry, Guided, Implicit
from bptt_relax.ase_calculator import ASECalculator
from bptt_relax.relax import Theta


def pull_home(params, positions, system, graph):
    """Every atom is drawn to a place of its own, and turned a little on the way."""
    del graph
    home = params["size"] * jnp.sin(1.0 + jnp.arange(positions.size, dtype=float)).reshape(-1, 3)
    d = positions - system.cell[0, 0] * home
    turned = jnp.cross(d, jnp.ones_like(d))
    return -params["pull"] * d + params["twist"] * turned


@pytest.fixture(scope="module")
def potential():
    return potentials.direct(
        pull_home,
        lambda key: {"pull": jnp.asarray(0.4), "twist": jnp.asarray(0.1), "size": jnp.asarray(1.0)},
        name="home",
    )


@pytest.fixture(scope="module")
def case(potential, make_silicon, make_structure):
    structure = make_structure(make_silicon(1))
    layout = systems.plan_layout([structure], potential.graph)._replace(num_atoms=9)
    return systems.prepare(structure, potential.graph, layout)


def test_a_prediction_is_forces_and_nothing_else(potential, case):
    positions, system = case
    params = potential.init(None)
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    prediction = potential.apply(params, positions, system, graph)
    assert prediction.energy is None
    assert prediction.stress is None
    assert (potential.conservative, potential.apply_lean) == (False, None)
    assert potential.predicts == ("forces",)
    np.testing.assert_array_equal(prediction.forces[7:], 0.0)
    np.testing.assert_allclose(prediction.forces[:7], pull_home(params, positions, system, graph)[:7])


def test_a_potential_without_a_graph_lists_nothing_and_never_goes_stale(potential, case):
    positions, system = case
    assert potential.cutoff == np.inf
    for moved in (positions, positions + 100.0):
        graph = neighbors.refresh(system.candidates, moved, 2 * system.cell)
        assert not bool(graph.overflow)
        assert neighbors.count(graph) == {"edges": 0, "bonds": 0, "angles": 0}
    with pytest.raises(ValueError, match="not finite"):
        systems.with_neighbors(np.full((9, 3), np.nan), system, potential.graph)
    with pytest.raises(ValueError, match="cutoff"):
        systems.with_neighbors(positions, system, neighbors.GraphSpec(-1.0))


def test_the_energy_of_a_relaxation_is_no_number_and_poisons_no_gradient(potential, case):
    positions, system = case
    rule = relax.momentum(0.3, 0.5)
    relaxation = relax.relaxation(potential, rule, force_tolerance=1e-3)
    run = unrolling.unroll(relaxation, 60)

    def loss(theta):
        final = run(theta, relaxation.init(theta, positions, system), system)
        return jnp.sum(jnp.where(system.mask[:, None], final.state.positions, 0.0) ** 2), final

    theta = Theta(potential.init(None), rule.hyper)
    (value, final), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(theta)
    assert np.isnan(final.info.energy)
    assert np.isfinite(value)
    assert trees.all_finite(gradient)
    assert float(gradient.potential["twist"]) != 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "adjoint", [Checkpointed("force"), Implicit(), Guided(3, weight=0.0), FrozenGeometry(1.0)]
)
def test_adjoints_find_their_way_without_energy_or_symmetry(potential, case, adjoint):
    """Relaxed, every atom is at home: the sum of squares goes with the square of the size, and with nothing else."""
    positions, system = case
    rule = relax.descent(0.8)
    relaxation = relax.relaxation(potential, rule)
    run = unrolling.unroll(relaxation, 80, adjoint)

    def loss(theta):
        final = run(theta, relaxation.init(theta, positions, system), system).state
        return jnp.sum(jnp.where(system.mask[:, None], final.positions, 0.0) ** 2)

    theta = Theta(potential.init(None), rule.hyper)
    value, gradient = jax.jit(jax.value_and_grad(loss))(theta)
    assert trees.all_finite(gradient)
    for name in ("pull", "twist"):
        assert float(gradient.potential[name]) == pytest.approx(0.0, abs=1e-6 * float(value))
    # Guided mixes in a biased window by its weight; without it, what is left must be exact.
    # Frozen geometry replaces the inverse Jacobian, which has no symmetry here, by a number.
    exact = pytest.approx(2 * float(value), rel=1e-5)
    found = float(gradient.potential["size"])
    assert found > 0 if isinstance(adjoint, FrozenGeometry) else found == exact


def test_what_needs_more_than_forces_refuses(potential, case):
    relaxation = relax.relaxation(potential, relax.descent(0.1))
    for adjoint in (Implicit(solver="cg"), Guided(2, implicit=Implicit(solver="minres"))):
        with pytest.raises(ValueError, match="gmres"):
            unrolling.unroll(relaxation, 5, adjoint)
    with pytest.raises(ValueError, match="home predicts no stress"):
        relax.variable_cell_relaxation(potential, relax.descent(0.1))


def test_the_ase_calculator_claims_no_energy(potential, make_silicon):
    atoms = make_silicon(1)
    atoms.calc = ASECalculator(potential, potential.init(None))
    assert atoms.calc.implemented_properties == ["forces"]
    assert atoms.get_forces().shape == (7, 3)
    for ask in (atoms.get_potential_energy, atoms.get_stress):
        with pytest.raises(PropertyNotImplementedError):
            ask()
    with pytest.raises(PropertyNotImplementedError, match="home predicts forces and no energy"):
        atoms.calc.calculate(atoms, ["energy"])
    before = atoms.positions.copy()
    VelocityVerlet(atoms, 1.0).run(2)
    assert np.max(np.abs(atoms.positions - before)) > 1e-4


def test_many_relax_without_an_energy(potential, make_silicon, make_structure):
    structures = [make_structure(make_silicon(1, seed=seed), f"s{seed}") for seed in range(2)]
    rule = relax.descent(0.8)
    relaxation = relax.relaxation(potential, rule, force_tolerance=1e-2)
    finals = list(
        batches.RelaxMany(relaxation, potential.graph, 100)(
            Theta(potential.init(None), rule.hyper), structures
        )
    )
    assert [final.converged for final in finals] == [True, True]
    assert all(np.isnan(final.energy) for final in finals)
