"""FIRE: the path of ASE's, exact gradients, and nothing undefined where forces or velocities are zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import FIRE
from hypothesis import given, settings
from hypothesis import strategies as st

from bptt_relax import adjoints, relax, systems, trees, unrolling
from bptt_relax.outcomes import Outcome

STIFFNESS = np.array([0.4, 2.0, 15.0])


def well_forces(x, np=np):
    """Forces of an anharmonic well, stiff and soft, coupled, minimum at zero."""
    return -(x * STIFFNESS + 0.3 * x**3 + 0.2 * np.roll(x, 1, axis=0))


class Well(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": well_forces(atoms.positions)}


def bare_system(n: int, padded: int = 0) -> systems.System:
    """Atoms without neighbors: all that a rule needs."""
    total = n + padded
    real = jnp.arange(total) < n
    return systems.System(
        species=jnp.where(real, 14, 0),
        masses=jnp.where(real, 28.0, 0.0),
        cell=jnp.eye(3),
        pbc=jnp.zeros(3, bool),
        mask=real,
        free=jnp.broadcast_to(real[:, None], (total, 3)),
    )


def path_in_well(rule, x, steps):
    """Positions of a rule in the well, and its states."""
    system = bare_system(len(x))
    state, update = rule.init(rule.hyper, system), jax.jit(rule.update)
    positions, states = [], []
    for _ in range(steps):
        displacement, state = update(rule.hyper, jnp.asarray(well_forces(x)), state, system)
        x = x + np.asarray(displacement)
        positions.append(x)
        states.append(state)
    return np.array(positions), states


OPTIONS = {
    "ase's defaults": ({"largest_time_step": 1.0}, {}),
    "never capped": ({"largest_time_step": 1.0, "largest_step": None}, {"maxstep": 1e9}),
    "cap often": ({"largest_step": 0.05, "largest_time_step": 1.0}, {"maxstep": 0.05}),
    "time step at its bound": (
        {"time_step": 0.05, "largest_time_step": 0.07, "patience": 2},
        {"dt": 0.05, "dtmax": 0.07, "Nmin": 2},
    ),
    "every factor": (
        {
            "time_step": 0.2,
            "largest_time_step": 0.9,
            "mixing": 0.3,
            "growth": 1.4,
            "shrink": 0.3,
            "mixing_decay": 0.8,
            "patience": 0,
        },
        {"dt": 0.2, "dtmax": 0.9, "astart": 0.3, "a": 0.3, "finc": 1.4, "fdec": 0.3, "fa": 0.8, "Nmin": 0},
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_path_is_that_of_ase(name):
    ours, theirs = OPTIONS[name]
    start = np.random.default_rng(1).normal(size=(4, 3))
    atoms = Atoms("Si4", positions=start, calculator=Well())
    optimizer = FIRE(atoms, logfile=None, **theirs)
    path, states = path_in_well(relax.fire(**ours), start, 80)
    uphill = grew = 0
    for positions, before, after in zip(path, [None, *states], states, strict=False):
        optimizer.step()
        np.testing.assert_allclose(positions, atoms.positions, rtol=0, atol=1e-10)
        uphill += before is not None and int(after.downhill) == 0
        grew += before is not None and float(after.time_step) > float(before.time_step)
    # Or the comparison says nothing about the branches.
    assert uphill > 0 or name == "time step at its bound"
    assert grew > 0


# On structures. One relaxation for all of them, so that little is compiled.

RULE = relax.fire(0.08, largest_time_step=0.5, growth=1.3, shrink=0.4, patience=1, largest_step=0.04)


def make_run(potential, num_steps, force_tolerance=0.0):
    """(theta, positions, system) -> relaxed, with its path."""
    relaxation = relax.relaxation(potential, RULE, force_tolerance=force_tolerance)

    def record(state, info):
        return unrolling.path(state, info) | state.rule._asdict()

    run = unrolling.unroll(relaxation, num_steps, record=record)
    return jax.jit(lambda t, x, system: run(t, relaxation.init(t, x, system), system))


def make_loss(potential, num_steps, adjoint=None):
    """(theta, positions, system) -> a loss that sees every coordinate, and the outcome."""
    relaxation = relax.relaxation(potential, RULE)
    run = unrolling.unroll(relaxation, num_steps, adjoint)

    def loss(theta, positions, system):
        result = run(theta, relaxation.init(theta, positions, system), system)
        weights = jnp.linspace(0.3, 1.7, 6).reshape(2, 3)
        return jnp.sum(weights * result.state.positions[:2] ** 2) / 10, result.outcome

    return loss


@pytest.fixture(scope="module")
def theta(pair):
    return relax.Theta(pair.init(jax.random.key(0)), RULE.hyper)


@pytest.fixture(scope="module")
def run(pair):
    return make_run(pair, 60, 0.05)


@pytest.fixture(scope="module")
def value_and_grad(pair):
    return jax.jit(jax.value_and_grad(make_loss(pair, 14), argnums=(0, 1), has_aux=True))


@pytest.fixture(scope="module")
def start(make_cell, prepare, pair):
    return prepare(make_cell(rattle=0.3), of=pair)


def test_path_on_silicon_is_that_of_ase(potential, params, make_cell, prepare, make_calculator):
    atoms = make_cell((2, 1, 1))
    positions, system = prepare(atoms)
    atoms.calc = make_calculator(potential, system)
    optimizer = FIRE(atoms, logfile=None, dt=0.08, dtmax=0.5, finc=1.3, fdec=0.4, Nmin=1, maxstep=0.04)
    result = make_run(potential, 50)(relax.Theta(params, RULE.hyper), positions, system)
    assert result.outcome == Outcome.RUNNING
    for ours in result.trace["positions"]:
        optimizer.step()
        np.testing.assert_allclose(ours, atoms.positions, rtol=0, atol=1e-10)


def test_gradient_is_that_of_differences(run, value_and_grad, theta, start, assert_gradient):
    positions, system = start
    trace = run(theta, positions, system).trace
    # Turns, growth and the cap all happen within these steps.
    assert np.max(trace["step_norm"][:14]) > 0.0399
    assert np.min(trace["mixing"][1:14]) < 0.0999
    assert np.min(trace["downhill"][1:14]) == 0

    def of_both(tree):
        (value, _), gradient = value_and_grad(*tree, system)
        return value, gradient

    assert_gradient(of_both, (theta, positions), step=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "adjoint",
    [adjoints.Full(), adjoints.Checkpointed("force"), adjoints.Checkpointed("segments", 4)],
    ids=["full", "force", "segments"],
)
def test_gradient_does_not_depend_on_the_adjoint(pair, value_and_grad, theta, start, adjoint):
    positions, system = start
    other = jax.jit(jax.grad(make_loss(pair, 14, adjoint), argnums=(0, 1), has_aux=True))
    wanted = value_and_grad(theta, positions, system)[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        other(theta, positions, system)[0],
        wanted,
    )


def test_memory_of_the_rule_starts_from_no_hyperparameter():
    """After a rebuild of neighbors the state is a constant: a time step kept in it would lose its slope."""
    system = bare_system(2)

    def moved(hyper, made_with):
        return jnp.sum(RULE.update(hyper, jnp.ones((2, 3)), RULE.init(made_with, system), system)[0])

    of_update, of_init = jax.jit(jax.grad(moved, argnums=(0, 1)))(RULE.hyper, RULE.hyper)
    assert abs(of_update["log_time_step"]) > 1e-3
    assert not any(jax.tree.leaves(of_init))


def test_gradient_at_zero_force_and_velocity():
    rule = relax.fire()
    system = bare_system(2, padded=1)

    def total(hyper, forces, velocity):
        state = rule.init(hyper, system)
        state = state._replace(started=jnp.asarray(True), time_step=jnp.asarray(0.1), velocity=velocity)
        for _ in range(3):
            displacement, state = rule.update(hyper, forces, state, system)
        return jnp.sum(displacement) + jnp.sum(state.velocity) + state.time_step + state.mixing

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    nothing, something = jnp.zeros((3, 3)), jnp.zeros((3, 3)).at[0, 0].set(1.0)
    for forces in (nothing, something):
        for velocity in (nothing, something, -something):
            leaves = jax.tree.leaves(gradient(rule.hyper, forces, velocity))
            assert all(np.all(np.isfinite(leaf)) for leaf in leaves)


def test_gradient_of_a_crystal_at_rest(value_and_grad, theta, make_cell, prepare, pair):
    positions, system = prepare(make_cell(strain=0.0, rattle=0.0), of=pair)
    positions = positions.at[1].set(0.25 * jnp.sum(system.cell, axis=0))
    (_, outcome), gradient = value_and_grad(theta, positions, system)
    assert outcome == Outcome.RUNNING
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_padding_changes_nothing(value_and_grad, theta, make_cell, prepare, pair):
    alone = value_and_grad(theta, *prepare(make_cell(), of=pair))
    padded = value_and_grad(theta, *prepare(make_cell(), num_atoms=4, of=pair))
    padded = (padded[0], (padded[1][0], padded[1][1][:2]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), alone, padded)


def test_one_broken_structure_spoils_no_other(pair, theta, start):
    positions, system = start
    each = jax.jit(jax.vmap(jax.value_and_grad(make_loss(pair, 10), has_aux=True), in_axes=(None, 0, None)))
    # Too close: forces are not numbers, while no neighbor list is stale.
    broken = positions.at[1].set(positions[0] + 0.6 * (positions[1] - positions[0]))
    (values, outcomes), gradients = each(theta, jnp.stack([positions, broken, positions + 0.01]), system)
    (wanted, _), gradient = each(theta, jnp.stack([positions, positions, positions + 0.01]), system)
    assert outcomes.tolist() == [Outcome.RUNNING, Outcome.NOT_FINITE, Outcome.RUNNING]
    np.testing.assert_array_equal(values[::2], wanted[::2])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[::2], b[::2]), gradients, gradient)


def test_precision_is_that_of_the_positions():
    system = trees.cast(bare_system(2), jnp.float32)
    state = RULE.init(RULE.hyper, system)
    displacement, after = jax.eval_shape(
        RULE.update, RULE.hyper, jnp.ones((2, 3), jnp.float32), state, system
    )
    assert displacement.dtype == jnp.float32
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)


def test_converged_structure_is_frozen(run, theta, start):
    positions, system = start
    result = run(theta, positions, system)
    assert result.outcome == Outcome.CONVERGED
    assert result.residual < 0.05
    steps = int(result.state.steps)
    assert steps < 50
    np.testing.assert_array_equal(result.trace["positions"][steps - 1], result.state.positions)


# What must change nothing.

update_of = jax.jit(relax.fire(largest_step=None, patience=1).update)


def displacements_for(forces):
    rule, system = relax.fire(largest_step=None, patience=1), bare_system(forces.shape[1])
    state, path = rule.init(rule.hyper, system), []
    for f in forces:
        displacement, state = update_of(rule.hyper, jnp.asarray(f), state, system)
        path.append(np.asarray(displacement))
    return np.array(path)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_rotated_permuted_and_repeated_forces(seed):
    """A rule knows no axis, no order of atoms and, where no step is capped, no size of the cell."""
    generator = np.random.default_rng(seed)
    forces = generator.normal(size=(12, 3, 3)) + np.linspace(1, -1, 12)[:, None, None]
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    order = generator.permutation(3)
    plain = displacements_for(forces)
    np.testing.assert_allclose(displacements_for(forces @ rotation), plain @ rotation, atol=1e-12)
    np.testing.assert_allclose(displacements_for(forces[:, order]), plain[:, order], atol=1e-12)
    repeated = displacements_for(np.tile(forces, (1, 2, 1)))
    np.testing.assert_allclose(repeated, np.tile(plain, (1, 2, 1)), atol=1e-12)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31))
def test_translated_and_wrapped_structure(run, theta, make_cell, prepare, pair, seed):
    generator = np.random.default_rng(seed)
    atoms = make_cell()
    moved = atoms.copy()
    shift = generator.normal(size=3) + generator.integers(-2, 3, size=(2, 3)) @ atoms.cell.array
    moved.positions += shift
    wanted, got = (run(theta, *prepare(one, of=pair)).state for one in (atoms, moved))
    assert wanted.steps == got.steps
    np.testing.assert_allclose(got.positions - shift, wanted.positions, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_step": 0.0}, "time_step"),
        ({"time_step": 0.5}, "largest_time_step"),
        ({"mixing": 1.0}, "mixing"),
        ({"growth": 1.0}, "growth"),
        ({"shrink": 1.0}, "shrink"),
        ({"mixing_decay": 0.0}, "mixing_decay"),
        ({"patience": -1}, "patience"),
        ({"largest_step": 0.0}, "largest_step"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        relax.fire(**arguments)
