"""What derivatives must be: right, the same however they are taken, through whole relaxations too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bptt_relax import trees
from bptt_relax.adjoints import Adjoint, Checkpointed, Full, Guided, Implicit, Truncated
from bptt_relax.analysis import gradcheck
from bptt_relax.analysis._check import to_device
from bptt_relax.conformance.subject import Relaxing, Subject
from bptt_relax.unrolling import unroll

NUM_STEPS = 3

EXACT: dict[str, Adjoint] = {
    "full": Full(),
    "checkpointed by step": Checkpointed(),
    "checkpointed by force": Checkpointed("force"),
    "checkpointed by segments": Checkpointed("segments", segment=2),
    "truncated, all first steps": Truncated(first=NUM_STEPS),
    "truncated, all last steps": Truncated(last=NUM_STEPS),
    "guided, all steps": Guided(NUM_STEPS),
    "implicit, where it falls back": Implicit(on_unusable="unroll", force_tolerance=1e-9),
}
"""Adjoints that must all give one gradient, so set."""


def assert_same_gradient(found, expected, what: str) -> None:
    """Compare pytrees of gradients, relative to the size of all."""
    size = float(trees.global_norm(expected))
    distance = float(trees.global_norm(jax.tree.map(jnp.subtract, found, expected)))
    assert np.isfinite(size), f"{what}: the gradient compared with is not finite"
    assert distance <= 1e-7 * max(size, 1e-6), (
        f"{what}: relative difference {distance / max(size, 1e-300):.1e}"
    )


class GradientChecks:
    """Tests of derivatives. ``subject`` is a fixture of the suite."""

    def test_parameters_are_floats(self, subject: Subject):
        """What trains are finite floats, at least one of them."""
        leaves = jax.tree.leaves(subject.params)
        assert leaves, "no parameters"
        for leaf in leaves:
            assert np.issubdtype(leaf.dtype, np.inexact), (
                f"a parameter is {leaf.dtype}: keep it out of params"
            )
            assert np.all(np.isfinite(leaf)), "a parameter is not finite"

    def test_derivatives_are_differences(self, subject: Subject):
        """Of energy and forces, with respect to parameters and positions at once."""
        positions, system = subject.prepare(subject.atoms, subject.layout(subject.atoms, extra_atoms=1))
        point = (to_device(subject.params, double=True), positions)
        value = jax.jit(lambda point: subject.pair(point[0], point[1], system))
        gradient = jax.jit(jax.grad(lambda point: subject.pair(point[0], point[1], system)))(point)
        assert bool(trees.all_finite(gradient)), "a derivative is not finite"
        rng, step = np.random.default_rng(3), 1e-4

        def draw(leaf):
            size = float(jnp.sqrt(jnp.mean(leaf**2))) if leaf.size else 0.0
            return jnp.asarray(rng.normal(size=leaf.shape)) * (size or 1.0)

        for name, moves in (("parameters", (1.0, 0.0)), ("positions", (0.0, 0.3))):
            direction = (
                jax.tree.map(lambda leaf, scale=moves[0]: scale * draw(leaf), point[0]),
                jnp.where(
                    system.mask[:, None], moves[1] * jnp.asarray(rng.normal(size=positions.shape)), 0.0
                ),
            )
            far_below, below, above, far_above = (
                float(value(jax.tree.map(lambda x, d, k=k: x + k * step * d, point, direction)))
                for k in (-2, -1, 1, 2)
            )
            slope = (8 * (above - below) - (far_above - far_below)) / (12 * step)
            along = sum(
                float(jnp.vdot(g, d))
                for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)
            )
            assert along == pytest.approx(slope, rel=1e-5, abs=1e-6), f"derivative with respect to {name}"

    def test_the_lean_derivative_is_the_plain_one(self, subject: Subject):
        """`Potential.apply_lean` is the same function and has the same gradient."""
        if subject.potential.apply_lean is None:
            pytest.skip("apply_lean is None")
        positions, system = subject.prepare(subject.atoms, subject.layout(subject.atoms, extra_atoms=1))
        params = to_device(subject.params, double=True)
        plain, lean = (
            jax.jit(
                jax.value_and_grad(
                    lambda p, x, lean=lean: subject.pair(p, x, system, lean=lean), argnums=(0, 1)
                )
            )(params, positions)
            for lean in (False, True)
        )
        assert float(lean[0]) == pytest.approx(float(plain[0]), rel=1e-10)
        assert_same_gradient(lean[1], plain[1], "lean against plain")

    @pytest.mark.parametrize("how", ["vmap", "lax.map"])
    def test_structures_side_by_side(self, subject: Subject, how: str):
        """Mapped over structures of one layout, each is as alone."""
        other = subject.atoms.copy()
        other.positions += 0.03 * np.random.default_rng(4).normal(size=other.positions.shape)
        layout = subject.layout(subject.atoms, other, extra_atoms=1)
        params = to_device(subject.params, double=True)
        cases = [subject.prepare(atoms, layout) for atoms in (subject.atoms, other)]
        one = jax.value_and_grad(subject.pair, argnums=1)
        alone = trees.stack([jax.jit(one)(params, *case) for case in cases])
        stacked = trees.stack(cases)
        if how == "vmap":
            together = jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))(params, *stacked)
        else:
            together = jax.jit(lambda p, c: lax.map(lambda case: one(p, *case), c))(params, stacked)
        assert_same_gradient(together, alone, f"{how} against one by one")

    def test_the_gradient_of_a_relaxation_is_its_difference(self, subject: Subject):
        """Backpropagation through steps, against finite differences, in parameters and step size."""
        case = subject.relaxation
        run = unroll(case.relaxation, NUM_STEPS, Checkpointed())
        report = gradcheck(
            run, case.relaxation, case.theta, case.positions, case.system, case.loss, single_tolerance=None
        )
        assert report.passed, "; ".join(f"{c.name}: {c.value:.1e}, {c.detail}" for c in report.checks)

    @pytest.mark.parametrize("name", [name for name in EXACT if name != "checkpointed by step"])
    def test_every_adjoint_gives_that_gradient(self, subject: Subject, name: str):
        """Full, checkpointed, truncated, guided and implicit, set so that all are exact."""
        known = subject.relaxation.gradients
        for one in (name, "checkpointed by step"):
            if one not in known:
                known[one] = _gradient(subject.relaxation, EXACT[one])
        assert_same_gradient(known[name], known["checkpointed by step"], name)


def _gradient(case: Relaxing, adjoint: Adjoint):
    """Of the loss of a short relaxation, with respect to all parameters and the start."""
    run = unroll(case.relaxation, NUM_STEPS, adjoint)

    def value(theta, positions):
        start = case.relaxation.init(theta, positions, case.system)
        return case.loss(theta, run(theta, start, case.system), case.system)

    return jax.jit(jax.grad(value, argnums=(0, 1)))(case.theta, case.positions)
