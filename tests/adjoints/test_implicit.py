"""Implicit differentiation: exact at a fixed point, refused elsewhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import potentials, relax, trees
from bptt_relax.adjoints import Checkpointed, FrozenGeometry, Guided, Implicit, Usable
from bptt_relax.outcomes import Outcome, RelaxationError
from bptt_relax.relax import Theta

TIGHT = Implicit(tolerance=1e-12)


@pytest.fixture(scope="module")
def implicit(converging):
    return converging.gradient(TIGHT)


def test_agrees_with_the_unrolled_gradient_at_a_fixed_point(implicit, exact, assert_close):
    (theta, _), result = implicit
    (unrolled, _), reference = exact
    assert int(reference.outcome) == Outcome.CONVERGED
    assert float(reference.residual) < 1e-11
    assert_close(theta.potential, unrolled.potential, 1e-8)
    assert_close(result.state, reference.state, 1e-12)


def test_agrees_with_finite_differences(converging, implicit):
    value = jax.jit(converging.value(TIGHT))
    (gradient, _), _ = implicit
    step = 1e-4

    def moved(name, scale):
        params = converging.theta.potential
        theta = Theta(params | {name: params[name] + scale * step}, converging.theta.rule)
        return value(theta, converging.positions, converging.system)[0]

    for name in gradient.potential:
        near, far = moved(name, 1) - moved(name, -1), moved(name, 2) - moved(name, -2)
        difference = (8 * near - far) / (12 * step)
        assert float(gradient.potential[name]) == pytest.approx(float(difference), rel=1e-6)


def test_start_and_rule_have_no_say(implicit):
    (theta, start), _ = implicit
    assert not jnp.any(start)
    assert all(float(leaf) == 0.0 for leaf in jax.tree.leaves(theta.rule))


@pytest.mark.parametrize("solver", ["minres", "gmres"])
def test_every_solver_agrees(converging, exact, assert_close, solver):
    (theta, _), _ = converging.gradient(dataclasses.replace(TIGHT, solver=solver, tolerance=1e-11))
    assert_close(theta.potential, exact[0][0].potential, 1e-7)


def test_cell(converging, assert_close):
    """The minimum moves with the cell, through the forces: the same as through all steps."""

    def gradient(adjoint):
        value = converging.value(adjoint)
        return jax.jit(
            jax.grad(
                lambda h: value(converging.theta, converging.positions, converging.system._replace(cell=h))[0]
            )
        )(converging.system.cell)

    unrolled = gradient(Checkpointed("force"))
    assert float(jnp.max(jnp.abs(unrolled))) > 0.1
    assert_close(gradient(TIGHT), unrolled, 1e-7)


def test_held_components(make_problem, crystal, assert_close):
    free = np.ones((4, 3), bool)
    free[0] = False
    free[2, 1] = False
    problem = make_problem(crystal, free=free)
    (unrolled, _), result = problem.gradient(Checkpointed("force"), 300)
    assert int(result.outcome) == Outcome.CONVERGED
    (theta, _), _ = problem.gradient(TIGHT, 300)
    assert_close(theta.potential, unrolled.potential, 1e-8)


def test_cluster(make_problem, cluster, assert_close):
    """Six rigid motions instead of three; a loss that does not see rotations agrees with the unrolled gradient."""
    problem = make_problem(cluster)

    def gradient(adjoint):
        value = problem.value(adjoint, 300)

        def spread(params):
            theta = Theta(params, problem.theta.rule)
            x = value(theta, problem.positions, problem.system)[1].state.positions
            return jnp.sqrt(jnp.sum((x[0] - x[1]) ** 2)) + 0.3 * jnp.sum((x[1] - x[3]) ** 2)

        return jax.jit(jax.grad(spread))(problem.theta.potential)

    assert_close(gradient(TIGHT), gradient(Checkpointed("force")), 1e-7)


def test_side_by_side_and_one_after_the_other(converging, implicit):
    """vmap and lax.map, with a structure among them that is not converged and one that is masked away."""
    p = converging
    empty = p.system._replace(
        mask=jnp.zeros_like(p.system.mask),
        free=jnp.zeros_like(p.system.free),
        candidates=p.system.candidates._replace(mask=jnp.zeros_like(p.system.candidates.mask)),
    )
    batch = trees.stack([(p.positions, p.system), (p.positions, empty), (p.positions, p.system)])
    value = p.value(TIGHT)

    def one(example):
        return jax.grad(lambda theta: value(theta, *example)[0])(p.theta)

    expected = implicit[0][0].potential
    for mapped in (jax.vmap(one), lambda examples: jax.lax.map(one, examples)):
        gradients = jax.jit(mapped)(batch).potential
        for name, value_alone in expected.items():
            np.testing.assert_allclose(gradients[name][0], value_alone, rtol=1e-9)
            np.testing.assert_allclose(gradients[name][2], value_alone, rtol=1e-9)
            assert float(gradients[name][1]) == 0.0


@pytest.fixture(scope="module")
def early(converging):
    """After six steps, far from the fixed point."""
    return converging.gradient(Checkpointed("force"), 6)


class TestUnconverged:
    def test_refused_as_nan(self, converging):
        (theta, _), result = converging.gradient(TIGHT, 6)
        assert int(result.outcome) == Outcome.RUNNING
        assert all(bool(jnp.isnan(leaf)) for leaf in jax.tree.leaves(theta.potential))

    def test_left_out_as_zero(self, converging):
        (theta, _), _ = converging.gradient(dataclasses.replace(TIGHT, on_unusable="zero"), 6)
        assert all(float(leaf) == 0.0 for leaf in jax.tree.leaves(theta))

    def test_unrolled_instead(self, converging, early, assert_close):
        (theta, start), _ = converging.gradient(dataclasses.replace(TIGHT, on_unusable="unroll"), 6)
        assert_close((theta, start), early[0], 1e-12)

    def test_a_result_that_nobody_asks_for_is_no_reason_to_refuse(self, converging):
        value = converging.value(TIGHT, 6)
        gradient = jax.grad(lambda t: 0.0 * value(t, converging.positions, converging.system)[0])(
            converging.theta
        )
        assert all(float(leaf) == 0.0 for leaf in jax.tree.leaves(gradient))

    def test_report(self, converging, early, exact):
        report = jax.jit(
            lambda state: TIGHT.report(
                converging.relaxation, converging.theta, state, converging.system, state.positions
            )
        )
        unconverged = report(early[1].state)
        assert int(unconverged.usable) == Usable.NOT_CONVERGED
        with pytest.raises(RelaxationError, match=r"structure Si4: .*not at a fixed point.*largest force"):
            unconverged.check("Si4")
        converged = report(exact[1].state)
        converged.check("Si4")
        assert float(converged.max_force) < 1e-10
        assert float(converged.residual) <= 1e-12
        assert 0 < int(converged.iterations) <= 15


def springs(constants):
    """A relaxation in a harmonic well at the origin of each atom, with these force constants; fixed, not projected."""

    def evaluate(theta, positions, cell, system):
        del cell
        forces = -jnp.asarray(constants)[:, None] * (positions - theta.potential["rest"])
        energy = -0.5 * jnp.sum(forces * positions)
        return relax.Evaluation(energy, jnp.where(system.free, forces, 0.0), None, jnp.asarray(False))

    rule = relax.descent(0.1)
    base = relax.relaxation(potentials.stillinger_weber(), rule)
    return base._replace(evaluate=evaluate, evaluate_lean=None), Theta({"rest": jnp.asarray(0.3)}, rule.hyper)


@pytest.fixture(scope="module")
def saddle(converging):
    """Force constants 2, 1 and -0.5 at rest where all forces vanish."""
    relaxation, theta = springs([2.0, 1.0, -0.5, 1.0, 1.0])
    system = converging.system._replace(candidates=None)
    state = relaxation.init(theta, jnp.full((5, 3), 0.3), system)
    cotangent = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    return relaxation, theta, state, system, cotangent


class TestAtASaddle:
    def report(self, saddle, **options):
        return Implicit(remove_rigid=False, **options).report(*saddle)

    def test_conjugate_gradients_refuse(self, saddle):
        report = self.report(saddle)
        assert int(report.usable) == Usable.NOT_DEFINITE
        with pytest.raises(RelaxationError, match="saddle"):
            report.check("x")

    def test_minres_does_not_mind(self, saddle):
        relaxation, theta, state, system, cotangent = saddle
        adjoint = Implicit(remove_rigid=False, solver="minres", tolerance=1e-10)
        zero = jax.tree.map(jnp.zeros_like, relaxation.carry(state))
        zero = zero._replace(state=zero.state._replace(positions=cotangent))
        gradient, _, report = adjoint.pull_back(relaxation, theta, state, system, zero)
        assert int(report.usable) == Usable.YES
        # x* = rest whatever the constants: every free component counts once.
        assert float(gradient.potential["rest"]) == pytest.approx(float(jnp.sum(cotangent[:4])), rel=1e-8)

    def test_damping_lifts_it(self, saddle):
        assert int(self.report(saddle, damping=0.6).usable) == Usable.YES

    def test_too_few_iterations_are_refused(self, saddle):
        report = self.report(saddle, damping=0.6, max_iterations=1)
        assert int(report.usable) == Usable.NOT_SOLVED
        with pytest.raises(RelaxationError, match="max_iterations"):
            report.check("x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_unusable": "ignore"}, "on_unusable must be"),
        ({"solver": "lu"}, "solver must be"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"max_iterations": 0}, "max_iterations must be positive"),
        ({"force_tolerance": -1.0}, "force_tolerance must be positive"),
        ({"damping": -0.1}, "damping must not be negative"),
    ],
)
def test_misuse(options, message):
    with pytest.raises(ValueError, match=message):
        Implicit(**options)


def test_symmetric_solvers_are_refused_for_direct_forces(converging):
    direct = converging.relaxation._replace(conservative=False)
    with pytest.raises(ValueError, match="gmres"):
        Implicit(solver="cg").build(direct, 3, lambda _: ())


@pytest.mark.parametrize("adjoint", [Implicit(), Guided(2), FrozenGeometry()])
def test_a_variable_cell_is_refused(morse, adjoint):
    relaxation = relax.variable_cell_relaxation(morse, relax.descent(0.01))
    with pytest.raises(ValueError, match=f"{type(adjoint).__name__} .* moves the cell"):
        adjoint.build(relaxation, 3, lambda _: ())
