"""Matrix products keep the digits of their entries: what TF32 and bfloat16 leave of a position moves the minimum."""

from collections.abc import Iterator

import jax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from bptt_relax import adjoints, losses, relax, systems, unrolling
from bptt_relax.models import pretrained
from bptt_relax.outcomes import ModelError
from bptt_relax.relax import Theta


def products(jaxpr: Jaxpr) -> Iterator:
    """Every product of matrices in a program and in whatever it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, (Jaxpr, ClosedJaxpr))):
            if isinstance(value, (Jaxpr, ClosedJaxpr)):
                yield from products(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


def assert_full(program, *arguments) -> None:
    found = list(products(jax.make_jaxpr(program)(*arguments).jaxpr))
    low = [
        str(e.source_info.traceback)
        for e in found
        if e.params["precision"] != (jax.lax.Precision.HIGHEST,) * 2
    ]
    assert found, "without a product there is nothing to see"
    assert not low, f"{len(low)} of {len(found)} products in the device's default precision, as\n{low[0]}"


@pytest.fixture(scope="module")
def make_gradient(make_silicon, make_structure):
    def make(model: str, adjoint, *, moves_cell: bool = False):
        try:
            potential, params = pretrained.load(model)
        except ModelError as error:
            pytest.skip(f"no weights: {error}")
        rule = relax.chain(relax.momentum(0.01, 0.5), relax.cap_displacement(0.05))
        make_relaxation = relax.variable_cell_relaxation if moves_cell else relax.relaxation
        relaxation = make_relaxation(potential, rule)
        structure = make_structure(make_silicon(1, rattle=0.08))
        target = structure._replace(positions=structure.positions + 0.05)
        layout = systems.plan_layout([structure, target], potential.graph)
        pair = systems.prepare_pair(structure, target, potential.graph, layout)

        def loss(theta):
            start = relaxation.init(theta, pair.initial, pair.system)
            final = unrolling.unroll(relaxation, 2, adjoint)(theta, start, pair.system).state
            return losses.delta_q(final.positions, pair.relaxed, pair.system)

        return jax.grad(loss), Theta(params, rule.hyper)

    return make


@pytest.mark.parametrize(
    "model",
    [
        "stillinger-weber",
        "adapt-silicon",
        "nequip-silicon",
        pytest.param("chgnet-0.3.0", marks=pytest.mark.slow),
    ],
)
def test_gradient_of_a_relaxation(make_gradient, model):
    assert_full(*make_gradient(model, adjoints.Full()))


@pytest.mark.parametrize("solver", ["minres", "gmres"])
def test_linear_solvers(make_gradient, solver):
    assert_full(*make_gradient("stillinger-weber", adjoints.Implicit(solver=solver)))


def test_relaxation_of_the_cell(make_gradient):
    assert_full(*make_gradient("stillinger-weber", adjoints.Full(), moves_cell=True))


def test_the_setting_of_the_user_counts(make_gradient):
    gradient, theta = make_gradient("adapt-silicon", adjoints.Full())
    with jax.default_matmul_precision("default"):
        found = list(products(jax.make_jaxpr(gradient)(theta).jaxpr))
    of_atoms = [e for e in found if e.params["precision"] == (jax.lax.Precision.DEFAULT,) * 2]
    assert of_atoms, "a setting that is made on purpose was overruled"
