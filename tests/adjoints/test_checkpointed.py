"""Checkpointing: exact, and what it stores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax import neighbors, potentials
from bptt_relax.adjoints import Checkpointed, Full
from bptt_relax.analysis import temporary_bytes


def test_force_pulls_back_energy_forces_and_stress(make_silicon, make_structure):
    """The lean backward pass of a potential with angles is that of ordinary reverse mode, to rounding."""
    from bptt_relax import systems

    potential = potentials.stillinger_weber()
    params = potential.init(None)
    positions, system = systems.prepare(make_structure(make_silicon(1)), potential.graph)
    rng = np.random.default_rng(0)
    cotangent = potentials.Prediction(*(jnp.asarray(rng.normal(size=s)) for s in ((), (7, 3), (3, 3))))

    @functools.partial(jax.jit, static_argnums=0)
    def pulled_back(apply, params, positions, cell):
        def predict(params, positions, cell):
            graph = neighbors.refresh(system.candidates, positions, cell)
            return apply(params, positions, system._replace(cell=cell), graph)

        prediction, pull = jax.vjp(predict, params, positions, cell)
        return prediction, pull(cotangent)

    ordinary = pulled_back(potential.apply, params, positions, system.cell)
    lean = pulled_back(potential.apply_lean, params, positions, system.cell)
    for a, b in zip(jax.tree.leaves(lean), jax.tree.leaves(ordinary), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
def test_memory(converging):
    """Per step, checkpointing stores a few numbers per atom; the plain scan stores the whole computation."""

    def growth(adjoint):
        value = converging.value(adjoint, 200), converging.value(adjoint, 8)
        sizes = [
            temporary_bytes(
                jax.grad(lambda t, f=f: f(t, converging.positions, converging.system)[0]), converging.theta
            )
            for f in value
        ]
        return (sizes[0] - sizes[1]) / 192 / converging.positions.nbytes

    full, force, segments = growth(Full()), growth(Checkpointed("force")), growth(Checkpointed("segments"))
    # Positions, momentum and forces, with a little for scalars.
    assert force < 8
    assert segments < 0.3 * force
    assert full > 30 * force


def test_segment_length():
    assert Checkpointed("segments").segment_length(100) == 10
    assert Checkpointed("segments").segment_length(1) == 1
    assert Checkpointed("segments", segment=7).segment_length(100) == 7
    assert Checkpointed("segments", segment=7).segment_length(5) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("steps",), "what must be"),
        (("step", 3), "needs what='segments'"),
        (("segments", 0), "positive number of steps"),
    ],
)
def test_misuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        Checkpointed(*arguments)
