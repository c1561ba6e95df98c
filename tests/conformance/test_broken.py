"""The suite must catch what is wrong: each of these potentials breaks one promise, and the test of it fails."""

import pytest

# Long: each is a whole run of the suite on a potential of its own.
pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

BROKEN = """
import jax, jax.numpy as jnp
from bptt_relax.conformance import PotentialConformance
from bptt_relax.potentials import Prediction, conservative
from bptt_relax.neighbors import GraphSpec
from jax.custom_batching import custom_vmap
from bptt_relax.trees import safe_norm

PARAMS = {{"depth": 0.8, "length": 2.4}}

def edges(params, vectors, graph):
    r = jnp.where(graph.mask, safe_norm(vectors), 2.0)
    x = jnp.exp(-1.4 * (r - params["length"]))
    fade = jnp.where(r < 4.5, (1 - (r / 4.5) ** 2) ** 3, 0.0)
    return jnp.where(graph.mask, 0.5 * params["depth"] * x * (x - 2) * fade, 0.0)

@custom_vmap
def batch(x):
    return 0.0 * x

@batch.def_vmap
def _(size, is_batched, x):
    return 0.0 * x + 1.0, True

def in_a_batch(positions):
    return batch(jax.lax.stop_gradient(positions[0, 0]))

asked = []

def times_asked():
    asked.append(1)
    return len(asked)

def moments(e, vectors, graph, system):
    n = len(system.mask)
    return jnp.stack(
        [jax.ops.segment_sum((e**k)[:, None] * vectors, graph.centers, n) for k in (1, 2, 3)], axis=1
    )

def energy(params, vectors, system, graph):
    e = edges(params, vectors, graph)
    return {energy}

whole = conservative(energy, lambda key: PARAMS, GraphSpec(4.5, {bonds}))

def apply(params, positions, system, graph):
    e, f, s = whole.apply(params, positions, system, graph)
    return Prediction({prediction})

def lean(params, positions, system, graph):
    return whole.apply_lean({lean}, positions, system, graph)

class TestBroken(PotentialConformance):
    def make(self):
        return whole._replace(apply=apply, apply_lean=lean), {params}
"""
SOUND = {
    "energy": "jnp.sum(e)",
    "prediction": "e, f, s",
    "params": "PARAMS",
    "lean": "params",
    "bonds": "0.0",
}

CASES = {
    "test_shapes_and_types": {"prediction": "e[None], f, s"},
    "test_padding_changes_nothing": {"prediction": "e + 1e-3 * len(system.mask), f, s"},
    "test_an_isolated_atom_feels_nothing": {"energy": "jnp.sum(e) / jnp.sum(graph.mask)"},
    "test_what_relaxations_rely_on[translation]": {"prediction": "e, f + 1e-3 * positions, s"},
    "test_what_relaxations_rely_on[rotation]": {"energy": "jnp.sum(e * (1 + 0.01 * vectors[:, 2] ** 2))"},
    "test_what_relaxations_rely_on[permutation]": {"energy": "jnp.sum(e * (1 + 0.01 * graph.centers))"},
    "test_what_relaxations_rely_on[net force]": {"prediction": "e, f + 1e-3, s"},
    "test_what_relaxations_rely_on[energy and forces]": {"prediction": "e, 1.01 * f, s"},
    "test_what_relaxations_rely_on[smooth at the cutoff]": {
        "energy": "jnp.sum(e) + 1e-2 * jnp.sum(jnp.where(graph.mask, 1.0, 0.0))"
    },
    "test_what_relaxations_rely_on[smooth at the bond cutoff]": {
        "bonds": "3.2",
        "energy": "jnp.sum(e) + 1e-2 * jnp.sum(jnp.where(graph.bond_mask, 1.0, 0.0))",
    },
    "test_what_relaxations_rely_on[stale neighbors]": {
        "prediction": "e, f * (1 + 1e-4 * jnp.sum(system.candidates.mask)), s"
    },
    "test_a_mirror_image_has_the_same_energy": {
        "energy": "jnp.sum(e) + jnp.sum(jnp.linalg.det(moments(e, vectors, graph, system)))"
    },
    "test_atoms_may_lie_outside_the_cell": {
        "prediction": "e + 1e-3 * jnp.sum(jnp.where(graph.mask[:, None], graph.images, 0.0) ** 2), f, s"
    },
    "test_a_supercell_is_several_cells": {"energy": "jnp.sum(e) / jnp.sum(system.mask)"},
    "test_stress_is_the_strain_derivative": {"prediction": "e, f, -s"},
    "test_cells_smaller_than_the_cutoff": {
        "energy": "jnp.sum(jnp.where(graph.centers == graph.neighbors, 0.0, e))"
    },
    "test_parameters_are_floats": {"params": '{**PARAMS, "layers": 2}'},
    "test_derivatives_are_differences": {
        "prediction": "jax.lax.stop_gradient(e), jax.lax.stop_gradient(f), s"
    },
    "test_the_lean_derivative_is_the_plain_one": {"prediction": "e, 1.001 * f, s"},
    "test_structures_side_by_side[vmap]": {"prediction": "e, f * (1 + 1e-3 * in_a_batch(positions)), s"},
    "test_structures_side_by_side[lax.map]": {"prediction": "e, f * (1 + 1e-3 * times_asked()), s"},
    "test_the_gradient_of_a_relaxation_is_its_difference": {"prediction": "e, jax.lax.stop_gradient(f), s"},
    "test_every_adjoint_gives_that_gradient[checkpointed by force]": {
        "lean": '{**params, "depth": jax.lax.stop_gradient(params["depth"])}'
    },
}


def run(pytester, broken, *tests):
    """Run some tests of the suite on a potential that is sound but for this."""
    pytester.makepyfile(test_it=BROKEN.format(**(SOUND | broken)))
    return pytester.runpytest_inprocess("-q", *(f"test_it.py::TestBroken::{test}" for test in tests))


@pytest.mark.parametrize("test", CASES)
def test_what_is_broken_fails(pytester, test):
    result = run(pytester, CASES[test], test)
    result.assert_outcomes(failed=1)
    # Caught, and not come to grief on the way.
    result.stdout.re_match_lines([r"E\s+(AssertionError|assert )"])


def test_what_is_sound_passes(pytester):
    result = run(pytester, {"bonds": "3.2"}, *CASES)
    result.assert_outcomes(passed=len(CASES))


def test_a_class_that_makes_nothing_says_what_to_write(pytester):
    pytester.makepyfile(
        """
        from bptt_relax.conformance import PotentialConformance
        class TestNothing(PotentialConformance):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-q", "-k", "floats")
    result.stdout.fnmatch_lines(["*TestNothing must define make*"])
