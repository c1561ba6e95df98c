"""Implicit differentiation: exact at a fixed point, refused elsewhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import potentials, relax, trees
from bptt_relax.adjoints import Checkpointed, FrozenGeometry, Guided, Implicit
from bptt_relax.relax import Theta

TIGHT = Implicit(tolerance=1e-12)


@pytest.fixture(scope="module")
def implicit(converging):
    return converging.gradient(TIGHT)


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
