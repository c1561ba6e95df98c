"""The step of every relaxation: the state and the report that it returns have the types of those that it takes."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax_md import minimize

from bptt_relax import relax
from bptt_relax.relax import Theta, set_running

RULES = {
    "descent": lambda: relax.descent(0.05, annealing=0.99),
    "momentum": lambda: relax.chain(relax.momentum(0.03, 0.5), relax.cap_displacement(0.2)),
    "fire": lambda: relax.chain(relax.fire(), relax.remove_drift()),
    "optax": lambda: relax.from_optax(optax.adam(0.01, eps_root=1e-12)),
}


def types(function, *arguments) -> list[str]:
    """Shape, dtype and weak type of every leaf that a function returns: what a compiled program is looked up by."""
    return [
        aval.str_short() + "~" * aval.weak_type for aval in jax.make_jaxpr(function)(*arguments).out_avals
    ]


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", [*RULES, "variable cell", "jax-md"])
def test_one_compilation_serves_the_first_step_and_all_others(potential, prepare, make_cell, kind, double):
    with jax.enable_x64(double):
        positions, system = prepare(make_cell())
        if kind == "jax-md":
            hyper = ()
            relaxation = relax.from_jax_md(lambda *f: minimize.fire_descent(*f, dt_max=0.2), potential)
        elif kind == "variable cell":
            rule = relax.fire()
            hyper, relaxation = rule.hyper, relax.variable_cell_relaxation(potential, rule)
        else:
            rule = RULES[kind]()
            hyper, relaxation = rule.hyper, relax.relaxation(potential, rule)
        theta = Theta(potential.init(None), hyper)
        state = jax.eval_shape(relaxation.init, theta, positions, system)
        start = types(relaxation.init, theta, positions, system)
        assert types(lambda *given: relaxation.step(*given).state, theta, state, system) == start
        assert types(set_running, state) == start
        assert types(relaxation.step, theta, state, system) == types(relaxation.carry, state)
        assert state.positions.dtype == (jnp.float64 if double else jnp.float32)
