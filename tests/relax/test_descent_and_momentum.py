"""Descent, both mixes of momentum, annealing and the cap, against plain loops in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import relax, systems, unrolling
from bptt_relax.outcomes import Outcome
from bptt_relax.relax import Theta

STEPS = 12


def plain_loop(forces, x, steps, *, step_size, decay=0.0, annealing=1.0, convex=False, largest=None):
    """The frame as one would write it down: no masks, no states, no transformed hyperparameters."""
    positions, previous = [], np.zeros_like(x)
    for t in range(steps):
        weight = 1.0 - decay if convex else 1.0
        previous = weight * step_size * annealing**t * forces(x) + decay * previous
        displacement = previous
        if largest is not None:
            furthest = np.sqrt(np.max(np.sum(displacement**2, axis=1)))
            displacement = displacement * min(1.0, largest / furthest)
        x = x + displacement
        positions.append(x)
    return np.array(positions)


CASES = {
    "descent": (relax.descent(0.02), {"step_size": 0.02}),
    "annealed": (relax.descent(0.03, annealing=0.9), {"step_size": 0.03, "annealing": 0.9}),
    "heavy ball": (relax.momentum(0.02, 0.6), {"step_size": 0.02, "decay": 0.6}),
    "convex mix": (
        relax.momentum(0.05, 0.3, mix="convex", annealing=0.95),
        {"step_size": 0.05, "decay": 0.3, "annealing": 0.95, "convex": True},
    ),
    "capped": (
        relax.chain(relax.momentum(0.03, 0.5), relax.cap_displacement(0.02)),
        {"step_size": 0.03, "decay": 0.5, "largest": 0.02},
    ),
}


@pytest.fixture(scope="module")
def start(pair, prepare, make_cell):
    return prepare(make_cell((2, 1, 1)), 5, of=pair)


@pytest.fixture(scope="module")
def forces(pair, start):
    """Forces on the four real atoms, in numpy."""
    positions, system = start
    params = pair.init(None)
    rule = relax.descent(0.1)
    evaluate = jax.jit(relax.relaxation(pair, rule).evaluate)

    def forces(x):
        padded = jnp.zeros_like(positions).at[:4].set(x)
        return np.asarray(evaluate(Theta(params, rule.hyper), padded, system.cell, system).forces)[:4]

    return forces


def run_from(pair, start, rule, num_steps=STEPS, record=unrolling.path, **tolerances):
    positions, system = start
    relaxation = relax.relaxation(pair, rule, **tolerances)
    run = jax.jit(unrolling.unroll(relaxation, num_steps, record=record))
    theta = Theta(pair.init(None), rule.hyper)
    return run(theta, relaxation.init(theta, positions, system), system)


@pytest.mark.parametrize("name", CASES)
def test_path(pair, start, forces, name):
    rule, settings = CASES[name]
    result = run_from(pair, start, rule)
    expected = plain_loop(forces, np.asarray(start[0])[:4], STEPS, **settings)
    np.testing.assert_allclose(result.trace["positions"][:, :4], expected, atol=1e-11)
    assert not np.any(np.asarray(result.trace["positions"])[:, 4])
    moves = np.diff(np.concatenate([np.asarray(start[0])[None, :4], expected]), axis=0)
    np.testing.assert_allclose(result.trace["step_norm"], np.sqrt(np.sum(moves**2, axis=(1, 2))), rtol=1e-9)
    assert int(result.state.steps) == STEPS
    if "largest" in settings:
        lengths = np.sqrt(np.sum(moves**2, axis=2)).max(axis=1)
        assert np.sum(np.isclose(lengths, settings["largest"])) >= 2, "the cap must have bound"
        assert np.all(lengths < settings["largest"] + 1e-12)


class TestStop:
    rule = relax.momentum(0.03, 0.4)

    @pytest.mark.parametrize("share", [1.001, 0.999])
    def test_by_force(self, pair, start, share):
        """Stops before moving from where the largest force on an atom is below the tolerance, and stays there."""
        path = run_from(pair, start, self.rule, 60)
        forces = np.asarray(path.trace["max_force"])
        tolerance = share * forces[20]
        first = int(np.argmax(forces < tolerance))
        stopped = run_from(pair, start, self.rule, 60, force_tolerance=float(tolerance))
        assert int(stopped.outcome) == Outcome.CONVERGED
        assert int(stopped.state.steps) == first > 0
        np.testing.assert_allclose(stopped.state.positions, path.trace["positions"][first - 1], atol=1e-12)
        assert float(stopped.residual) == pytest.approx(forces[first], rel=1e-9)

    @pytest.mark.parametrize("share", [1.001, 0.999])
    def test_by_step_length(self, pair, start, share):
        """Stops after a displacement whose Euclidean norm over all atoms is below the tolerance."""
        path = run_from(pair, start, self.rule, 60)
        lengths = np.asarray(path.trace["step_norm"])
        tolerance = share * lengths[15]
        first = int(np.argmax(lengths < tolerance))
        stopped = run_from(pair, start, self.rule, 60, step_tolerance=float(tolerance))
        assert int(stopped.outcome) == Outcome.CONVERGED
        assert int(stopped.state.steps) == first + 1
        np.testing.assert_allclose(stopped.state.positions, path.trace["positions"][first], atol=1e-12)

    def test_the_largest_force_is_a_norm_and_no_signed_maximum(self, pair, start, forces):
        positions, system = start
        mirrored = rebuilt(-positions, system)
        for x, s in ((positions, system), (-positions, mirrored)):
            result = run_from(pair, (x, s), self.rule, 1)
            expected = np.linalg.norm(forces(np.asarray(positions)[:4]), axis=1).max()
            assert float(result.residual) == pytest.approx(expected, rel=1e-9)

    def test_nothing_stops_without_a_tolerance(self, pair, start):
        assert int(run_from(pair, start, self.rule, 60).outcome) == Outcome.RUNNING

    def test_the_stop_has_no_gradient(self, pair, start):
        """Steps after the stop, and the stop itself, leave the gradient of those before."""
        positions, system = start

        def gradient(num_steps, **tolerances):
            relaxation = relax.relaxation(pair, self.rule, **tolerances)
            run = unrolling.unroll(relaxation, num_steps)

            def value(theta):
                end = run(theta, relaxation.init(theta, positions, system), system).state
                return jnp.sum(end.positions**2)

            return jax.jit(jax.grad(value))(Theta(pair.init(None), self.rule.hyper))

        forces = np.asarray(run_from(pair, start, self.rule, 12).trace["max_force"])
        tolerance = float(1.001 * forces[6])
        stopped = gradient(12, force_tolerance=tolerance)
        expected = gradient(int(np.argmax(forces < tolerance)))
        for a, e in zip(jax.tree.leaves(stopped), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-10)


def rebuilt(positions, system):
    return systems.rebuild_neighbors(np.asarray(positions), system)


def test_forces_that_are_not_numbers_end_the_relaxation(pair, start):
    positions, system = start
    broken = positions.at[1].set(positions[0] + 0.5)  # nearer than the pair potential is defined
    result = run_from(pair, (broken, rebuilt(broken, system)), relax.descent(0.02), 3)
    assert int(result.outcome) == Outcome.NOT_FINITE
    assert int(result.state.steps) == 0
    np.testing.assert_array_equal(result.state.positions, broken)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: relax.descent(0.0), "step_size must be positive"),
        (lambda: relax.descent(0.1, annealing=-1.0), "annealing must be positive"),
        (lambda: relax.momentum(0.1, 0.0), "decay must lie strictly between 0 and 1"),
        (lambda: relax.momentum(0.1, 1.0), "decay must lie strictly between 0 and 1"),
        (lambda: relax.momentum(0.1, 0.5, mix="nesterov"), "mix must be"),
        (lambda: relax.cap_displacement(0.0), "largest must be positive"),
        (relax.chain, "at least one rule"),
    ],
)
def test_misuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_negative_tolerances_are_refused(pair):
    with pytest.raises(ValueError, match="step_tolerance must not be negative"):
        relax.relaxation(pair, relax.descent(0.1), step_tolerance=-1e-3)
