"""Positions and cell together: ASE's path, forces that are exactly minus a gradient, exact gradients through steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from hypothesis import given, settings
from hypothesis import strategies as st

from bptt_relax import adjoints, relax, systems, trees, unrolling
from bptt_relax.outcomes import Outcome
from bptt_relax.relax._exponential import matrix_exp
from bptt_relax.relax._strain import periodic_span, projection
from bptt_relax.relax.variable_cell import _scale as scale
from bptt_relax.relax.variable_cell import with_cell_rows

STEP = 0.02
RULE = relax.momentum(STEP, 0.6)


def record(state, info):
    return unrolling.path(state, info) | {"cell": state.cell, "max_stress": info.max_stress}


def make_run(relaxation, num_steps):
    """(theta, positions, system) -> relaxed, with its path."""
    run = unrolling.unroll(relaxation, num_steps, record=record)
    return jax.jit(lambda t, x, system: run(t, relaxation.init(t, x, system), system))


def make_loss(relaxation, num_steps, adjoint=None):
    """(theta, positions, cell, system) -> a loss that sees every coordinate of atoms and cell, and the outcome."""
    run = unrolling.unroll(relaxation, num_steps, adjoint)

    def loss(theta, positions, cell, system):
        system = system._replace(cell=cell)
        result = run(theta, relaxation.init(theta, positions, system), system)
        weights = jnp.linspace(0.3, 1.7, 6).reshape(2, 3)
        seen = jnp.sum(weights * result.state.positions[:2] ** 2)
        return seen / 10 + jnp.sum(jnp.cos(result.state.cell)), result.outcome

    return loss


@pytest.fixture(scope="module")
def theta(pair):
    return relax.Theta(pair.init(jax.random.key(0)), RULE.hyper)


@pytest.fixture(scope="module")
def relaxation(pair):
    return relax.variable_cell_relaxation(pair, RULE, cell_factor=4.0, scalar_pressure=0.02)


@pytest.fixture(scope="module")
def run(relaxation):
    return make_run(relaxation, 12)


@pytest.fixture(scope="module")
def value_and_grad(relaxation):
    loss = make_loss(relaxation, 6, adjoints.Checkpointed("force"))
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


@pytest.fixture(scope="module")
def start(make_cell, prepare, pair):
    return prepare(make_cell(), of=pair)


# The path.

MODES = {
    "full, under pressure": (
        {"scalar_pressure": 0.05, "cell_factor": 4.0},
        {"scalar_pressure": 0.05, "exp_cell_factor": 4.0},
    ),
    "hydrostatic": ({"strain": "hydrostatic"}, {"hydrostatic_strain": True}),
    "fixed volume": (
        {"strain": "fixed_volume", "cell_factor": 1.0},
        {"constant_volume": True, "exp_cell_factor": 1.0},
    ),
    "in a plane": ({"strain": [1, 1, 0, 0, 0, 1]}, {"mask": [1, 1, 0, 0, 0, 1]}),
}


@pytest.mark.parametrize("mode", MODES)
def test_path_of_descent_is_that_of_ase(pair, make_cell, prepare, make_calculator, mode):
    ours, theirs = MODES[mode]
    atoms = make_cell()
    positions, system = prepare(atoms, of=pair)
    volume = atoms.cell.volume
    atoms.calc = make_calculator(pair, system)
    ase = FrechetCellFilter(atoms, **theirs)
    rule = relax.descent(STEP)
    theta = relax.Theta(pair.init(jax.random.key(0)), rule.hyper)
    result = make_run(relax.variable_cell_relaxation(pair, rule, **ours), 20)(theta, positions, system)
    assert result.outcome == Outcome.RUNNING
    for positions, cell in zip(result.trace["positions"], result.trace["cell"], strict=True):
        ase.set_positions(ase.get_positions() + STEP * ase.get_forces())
        np.testing.assert_allclose(positions, atoms.positions, rtol=0, atol=1e-10)
        np.testing.assert_allclose(cell, atoms.cell.array, rtol=0, atol=1e-10)
    assert np.linalg.norm(atoms.cell.array - np.asarray(system.cell)) > 1e-3
    if mode == "fixed volume":
        np.testing.assert_allclose(np.linalg.det(result.state.cell), volume, rtol=1e-13)


def test_fire_finds_the_lattice_constant_on_the_path_of_ase(
    potential, params, make_cell, prepare, make_calculator
):
    atoms = make_cell()
    positions, system = prepare(atoms)
    atoms.calc = make_calculator(potential, system)
    rule = relax.fire(0.1, largest_time_step=0.3)
    relaxation = relax.variable_cell_relaxation(
        potential, rule, cell_factor=3.0, force_tolerance=1e-6, stress_tolerance=1e-7
    )
    result = make_run(relaxation, 600)(relax.Theta(params, rule.hyper), positions, system)
    optimizer = FIRE(FrechetCellFilter(atoms, exp_cell_factor=3.0), logfile=None, dt=0.1, dtmax=0.3)
    for positions, cell in zip(result.trace["positions"][:50], result.trace["cell"], strict=False):
        optimizer.step()
        np.testing.assert_allclose(positions, atoms.positions, rtol=0, atol=1e-8)
        np.testing.assert_allclose(cell, atoms.cell.array, rtol=0, atol=1e-8)
    assert result.outcome == Outcome.CONVERGED
    assert result.residual < 1e-6
    assert result.info.max_stress < 1e-7
    # Bonds at the minimum of the pair term, 2^(1/6) sigma.
    volume = (2.0951 * 2 ** (1 / 6) * 4 / np.sqrt(3)) ** 3 / 4
    np.testing.assert_allclose(np.linalg.det(result.state.cell), volume, rtol=1e-6)


@pytest.mark.slow
def test_pressure_is_what_is_left_of_the_stress(potential, params, make_cell, prepare):
    rule = relax.fire(0.1)
    pressure = 0.05
    relaxation = relax.variable_cell_relaxation(
        potential,
        rule,
        cell_factor=3.0,
        scalar_pressure=pressure,
        force_tolerance=1e-4,
        stress_tolerance=1e-5,
    )
    theta = relax.Theta(params, rule.hyper)
    positions, system = prepare(make_cell())
    result = make_run(relaxation, 400)(theta, positions, system)
    assert result.outcome == Outcome.CONVERGED
    end = jax.jit(relaxation.evaluate)(theta, result.state.positions, result.state.cell, system)
    np.testing.assert_allclose(end.stress, -pressure * np.eye(3), atol=2e-5)


# Forces on the generalized coordinates.


def probe(pair, **options):
    """(displacement of all rows, system) -> enthalpy there and the forces that a rule would see there."""

    def update(hyper, forces, rule_state, system):
        del rule_state, system
        return hyper, forces

    rule = relax.UpdateRule((), lambda hyper, system: jnp.zeros_like(hyper), update)
    relaxation = relax.variable_cell_relaxation(pair, rule, **options)
    pressure = options.get("scalar_pressure", 0.0)

    @jax.jit
    def at(displacement, positions, system):
        theta = relax.Theta(pair.init(jax.random.key(0)), displacement)
        state, _ = relaxation.step(theta, relaxation.init(theta, positions, system), system)
        again, info = relaxation.step(theta, state, system)
        volume = jnp.abs(jnp.linalg.det(state.cell))
        return info.energy + pressure * volume, again.rule.rule, state, again.outcome

    return at


KINDS = {
    "full": {"scalar_pressure": 0.03},
    "fixed volume": {"strain": "fixed_volume"},
    "one shear": {"strain": [0, 0, 0, 1, 0, 0], "scalar_pressure": 0.03},
}
BOUNDARIES = [(True, True, True), (True, False, True), (False, True, False), (False, False, False)]


@pytest.mark.parametrize("kind", KINDS)
def test_forces_are_minus_the_gradient_of_the_enthalpy(pair, make_cell, prepare, kind):
    """In every mode, for slabs, wires and clusters, with components of an atom held, far from the reference cell."""
    at = probe(pair, cell_factor=1.7, **KINDS[kind])
    free = np.array([[True, True, True], [False, True, True]])
    generator = np.random.default_rng(3)
    for pbc in BOUNDARIES:
        atoms = make_cell()
        atoms.pbc = pbc
        positions, system = prepare(atoms, of=pair, free=free)
        d0, direction = 0.1 * generator.normal(size=(5, 3)), generator.normal(size=(5, 3))
        _, forces, state, outcome = at(d0, positions, system)
        assert outcome == Outcome.RUNNING
        values = [at(d0 + k * 1e-3 * direction, positions, system)[0] for k in (-2, -1, 1, 2)]
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-3
        np.testing.assert_allclose(-np.sum(forces * direction), slope, rtol=1e-7, atol=1e-8)
        assert forces[1, 0] == 0
        # Vectors of axes that are not periodic are made up, and nobody strains them.
        if not isinstance(KINDS[kind].get("strain", ""), list) and not any(pbc):
            np.testing.assert_array_equal(forces[2:], 0)
            np.testing.assert_allclose(state.cell, system.cell, atol=1e-14)


def test_spacing_keeps_cells_of_any_size_equally_stiff(pair, make_cell, prepare):
    """V C / c^2: the same for a supercell of eight, for which the number of atoms makes it an eighth."""
    stiffness = {}
    for repeat in (1, 2):
        atoms = make_cell().repeat(repeat)
        _, system = prepare(atoms, of=pair)
        for factor in (None, "spacing"):
            stiffness[factor, repeat] = atoms.get_volume() / scale(factor, system, system.cell) ** 2
        spacing = (atoms.get_volume() / len(atoms)) ** (1 / 3)
    np.testing.assert_allclose([stiffness["spacing", repeat] for repeat in (1, 2)], spacing, rtol=1e-12)
    np.testing.assert_allclose(stiffness[None, 2], stiffness[None, 1] / 8, rtol=1e-12)
    with pytest.raises(ValueError, match="cell_factor must be positive or \"spacing\", got 'size'"):
        relax.variable_cell_relaxation(pair, RULE, cell_factor="size")


def test_fixed_atom_keeps_its_fractional_coordinates(run, theta, make_cell, prepare, pair):
    free = np.array([[True, True, True], [False, False, False]])
    positions, system = prepare(make_cell(), of=pair, free=free)
    state = run(theta, positions, system).state
    before = positions @ np.linalg.inv(system.cell)
    after = state.positions @ np.linalg.inv(state.cell)
    np.testing.assert_allclose(after[1], before[1], atol=1e-14)
    assert np.max(np.abs(after[0] - before[0])) > 1e-3
    assert np.max(np.abs(state.positions[1] - positions[1])) > 1e-3


# Gradients.


def test_gradient_is_that_of_differences(potential, params, make_cell, prepare, assert_gradient):
    relaxation = relax.variable_cell_relaxation(potential, RULE, cell_factor=4.0, scalar_pressure=0.02)
    positions, system = prepare(make_cell())
    loss = make_loss(relaxation, 6, adjoints.Checkpointed("force"))
    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))

    def of_all(tree):
        (value, outcome), gradient = value_and_grad(*tree, system)
        assert outcome == Outcome.RUNNING
        return value, gradient

    assert_gradient(of_all, (relax.Theta(params, RULE.hyper), positions, system.cell))


def test_gradient_of_a_crystal_at_rest(value_and_grad, theta, make_cell, prepare, pair):
    positions, system = prepare(make_cell(strain=0.0, rattle=0.0), of=pair)
    _, gradient = value_and_grad(theta, positions, system.cell, system)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize(
    "adjoint",
    [
        adjoints.Full(),
        adjoints.Checkpointed(),
        adjoints.Checkpointed("segments", 4),
        adjoints.Truncated(first=6),
        adjoints.Truncated(last=6),
    ],
    ids=["full", "step", "segments", "first", "last"],
)
def test_gradient_does_not_depend_on_the_adjoint(relaxation, value_and_grad, theta, start, adjoint):
    positions, system = start
    other = jax.jit(jax.grad(make_loss(relaxation, 6, adjoint), argnums=(0, 1, 2), has_aux=True))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        other(theta, positions, system.cell, system)[0],
        value_and_grad(theta, positions, system.cell, system)[1],
    )


@pytest.fixture(scope="module")
def batch_value_and_grad(relaxation):
    loss = make_loss(relaxation, 6, adjoints.Checkpointed("force"))
    each = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(jax.vmap(each, in_axes=(None, 0, None, None)))


def test_padding_and_a_broken_neighbor_in_the_batch_change_nothing(
    value_and_grad, batch_value_and_grad, theta, make_cell, prepare, pair
):
    positions, system = prepare(make_cell(), of=pair)
    (value, _), (of_theta, of_positions, of_cell) = value_and_grad(theta, positions, system.cell, system)
    padded, roomy = prepare(make_cell(), num_atoms=4, of=pair)
    # Too close: forces and stress are not numbers, while no neighbor list is stale.
    broken = padded.at[1].set(padded[0] + 0.6 * (padded[1] - padded[0]))
    batch = jnp.stack([broken, padded, padded + 0.01])
    (values, outcomes), gradients = batch_value_and_grad(theta, batch, roomy.cell, roomy)
    assert outcomes.tolist() == [Outcome.NOT_FINITE, Outcome.RUNNING, Outcome.RUNNING]
    got = (values[1], gradients[0], gradients[1][1, :2], gradients[2][1])
    got = (got[0], jax.tree.map(lambda leaf: leaf[1], got[1]), *got[2:])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        got,
        (value, of_theta, of_positions, of_cell),
    )
    np.testing.assert_array_equal(gradients[1][1, 2:], 0)
    whole, _ = batch_value_and_grad(theta, jnp.stack([padded] * 3), roomy.cell, roomy)
    # A GPU adds up in an order of its own.
    np.testing.assert_allclose(whole[0][1], values[1], rtol=1e-14)


# Neighbors.


def small_skin(make_structure, make_cell, pair):
    structure = make_structure(make_cell(strain=0.06))
    layout = systems.plan_layout([structure], pair.graph, skin=2.0)
    return systems.prepare(structure, pair.graph, layout, skin=0.25)


def test_strain_makes_neighbors_stale_and_a_rebuild_carries_on(
    run, theta, make_cell, make_structure, prepare, pair
):
    wanted = run(theta, *prepare(make_cell(strain=0.06), of=pair))
    positions, system = small_skin(make_structure, make_cell, pair)
    relaxation = relax.variable_cell_relaxation(pair, RULE, cell_factor=4.0, scalar_pressure=0.02)
    short = jax.jit(unrolling.unroll(relaxation, 12))
    state = relaxation.init(theta, positions, system)
    assert short(theta, state, system).outcome == Outcome.STALE_NEIGHBORS
    result, segments = unrolling.relax_through_rebuilds(short, theta, state, system)
    assert len(segments) > 1
    np.testing.assert_allclose(result.state.positions, wanted.state.positions, atol=1e-12)
    np.testing.assert_allclose(result.state.cell, wanted.state.cell, atol=1e-12)
    np.testing.assert_allclose(
        result.state.rule.log_deformation, wanted.state.rule.log_deformation, atol=1e-12
    )


@pytest.mark.slow
def test_gradient_through_rebuilds(relaxation, theta, make_cell, make_structure, prepare, pair):
    positions, system = small_skin(make_structure, make_cell, pair)
    wide_positions, wide = prepare(make_cell(strain=0.06), of=pair)
    run = jax.jit(unrolling.unroll(relaxation, 12))

    def seen(theta, result, system):
        del theta, system
        return jnp.sum(result.state.positions**2) + jnp.sum(jnp.cos(result.state.cell)), ()

    through = partial(unrolling.value_and_grad_through_rebuilds, run, seen, theta)
    (value, _), gradient = through(relaxation.init(theta, positions, system), system)
    (wanted, _), wanted_gradient = through(relaxation.init(theta, wide_positions, wide), wide)
    np.testing.assert_allclose(value, wanted, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), gradient, wanted_gradient)


# What must change nothing.


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31))
def test_rotated_permuted_translated_and_wrapped(run, theta, make_cell, prepare, pair, seed):
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    atoms = make_cell()
    other = atoms[::-1]
    shift = generator.normal(size=3)
    images = generator.integers(-2, 3, size=(2, 3))
    other.positions += shift + images @ atoms.cell.array
    other.set_cell(other.cell.array @ rotation)
    other.positions = other.positions @ rotation
    plain, turned = (run(theta, *prepare(one, of=pair)).state for one in (atoms, other))
    np.testing.assert_allclose(turned.cell, plain.cell @ rotation, atol=1e-10)
    fractional = [np.asarray(one.positions @ np.linalg.inv(one.cell)) for one in (plain, turned)]
    moved = shift @ np.linalg.inv(atoms.cell.array)
    np.testing.assert_allclose((fractional[1] - moved - images)[::-1], fractional[0], atol=1e-10)


def test_supercell_relaxes_as_its_cell(pair, theta, make_cell, prepare):
    """With the cell scaled by the square root of the size; with ASE's scaling a large cell strains more slowly."""
    atoms = make_cell()
    ends = []
    for one in (atoms, atoms.repeat((2, 1, 1))):
        relaxation = relax.variable_cell_relaxation(pair, RULE, cell_factor=np.sqrt(len(one)))
        ends.append(make_run(relaxation, 12)(theta, *prepare(one, of=pair)).state)
    np.testing.assert_allclose(ends[1].cell, np.diag([2, 1, 1]) @ ends[0].cell, atol=1e-10)
    np.testing.assert_allclose(ends[1].positions[:2], ends[0].positions, atol=1e-10)


def test_precision_is_that_of_the_positions(pair, start):
    rule = relax.fire()
    relaxation = relax.variable_cell_relaxation(pair, rule)
    theta = relax.Theta(pair.init(jax.random.key(0)), rule.hyper)
    positions, system, theta = trees.cast((*start, theta), jnp.float32)
    state = jax.eval_shape(relaxation.init, theta, positions, system)
    after, _ = jax.eval_shape(relaxation.step, theta, state, system)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
    assert after.cell.dtype == jnp.float32


# Parts.


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 3.0])
def test_exponential_and_its_derivative(size):
    A, V = np.random.default_rng(0).normal(size=(2, 3, 3))
    A *= size / np.linalg.norm(A, 1)
    value, derivative = jax.jvp(matrix_exp, (A,), (V,))
    wanted, wanted_derivative = scipy.linalg.expm_frechet(A, V)
    np.testing.assert_allclose(value, wanted, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(derivative, wanted_derivative, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pbc", BOUNDARIES)
@pytest.mark.parametrize("strain", ["full", "hydrostatic", "fixed_volume", [0, 1, 0, 1, 1, 0]], ids=str)
def test_projections_are_orthogonal(strain, pbc):
    generator = np.random.default_rng(0)
    span = periodic_span(jnp.asarray(generator.normal(size=(3, 3))), jnp.asarray(pbc))
    project = projection(strain)
    A, B = jnp.asarray(generator.normal(size=(2, 3, 3)))
    P = project(A, span)
    np.testing.assert_allclose(project(P, span), P, atol=1e-14)
    np.testing.assert_allclose(jnp.sum(P * B), jnp.sum(A * project(B, span)), atol=1e-13)
    if strain == "fixed_volume":
        np.testing.assert_allclose(jnp.trace(P), 0, atol=1e-14)


def test_cell_rows_are_free_and_no_atoms():
    system = with_cell_rows(
        systems.System(
            species=jnp.array([14, 32, 0]),
            masses=jnp.array([28.0, 72.0, 0.0]),
            cell=jnp.eye(3),
            pbc=jnp.ones(3, bool),
            mask=jnp.array([True, True, False]),
            free=jnp.array([[True] * 3, [True, False, True], [False] * 3]),
        )
    )
    assert system.mask.tolist() == [True, True, False, False, False, False]
    assert jnp.all(system.free[3:])
    assert system.masses.tolist() == [28.0, 72.0, 0.0, 50.0, 50.0, 50.0]
    assert system.species.tolist() == [14, 32, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strain": "isotropic"}, "hydrostatic"),
        ({"strain": [1, 1]}, "6 or"),
        ({"strain": [0.5] * 6}, "booleans"),
        ({"strain": [0] * 6}, "fixed cell"),
        ({"cell_factor": 0.0}, "cell_factor"),
        ({"stress_tolerance": -1.0}, "stress_tolerance"),
        ({"force_tolerance": -1.0}, "force_tolerance"),
    ],
)
def test_arguments_out_of_range(pair, arguments, message):
    with pytest.raises(ValueError, match=message):
        relax.variable_cell_relaxation(pair, RULE, **arguments)


def test_potential_without_stress(pair, theta, start):
    positions, system = start

    def apply(params, positions, system, graph):
        return pair.apply(params, positions, system, graph)._replace(stress=None)

    relaxation = relax.variable_cell_relaxation(pair._replace(apply=apply), RULE)
    with pytest.raises(ValueError, match="no stress"):
        jax.eval_shape(relaxation.step, theta, relaxation.init(theta, positions, system), system)


@pytest.mark.parametrize("adjoint", [adjoints.Implicit(), adjoints.Guided(2), adjoints.FrozenGeometry()])
def test_adjoints_of_a_fixed_cell_refuse(relaxation, adjoint):
    with pytest.raises(ValueError, match="moves the cell"):
        unrolling.unroll(relaxation, 5, adjoint)
