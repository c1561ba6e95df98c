"""A small real learning problem: Stillinger-Weber with wrong parameters, targets relaxed with the right ones."""

from typing import NamedTuple

import jax
import pytest

from bptt_relax import relax, systems, unrolling
from bptt_relax.potentials import Potential, stillinger_weber
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import Layout, Pair, Structure
from bptt_relax.training import Objective, relaxed_structure


class Problem(NamedTuple):
    potential: Potential
    relaxation: Relaxation
    structures: list[Structure]
    layout: Layout
    pairs: dict[str, Pair]
    truth: Theta
    start: Theta
    objective: Objective


@pytest.fixture(scope="session")
def problem(make_silicon, make_structure) -> Problem:
    potential = stillinger_weber()
    rule = relax.momentum(0.015, 0.5)
    relaxation = relax.relaxation(potential, rule)
    truth = Theta(potential.init(None), rule.hyper)
    run = jax.jit(unrolling.unroll(relaxation, 60))

    structures = [make_structure(make_silicon(1, seed=seed), f"vacancy {seed}") for seed in range(3)]
    layout = systems.plan_layout(structures, potential.graph)
    pairs = {}
    for structure in structures:
        positions, system = systems.prepare(structure, potential.graph, layout)
        target = run(truth, relaxation.init(truth, positions, system), system).state.positions
        pairs[structure.name] = Pair(positions, target, system)
    start = truth._replace(
        potential=truth.potential
        | {"sigma": truth.potential["sigma"] * 1.01, "lam": 15.0 + 0 * truth.potential["lam"]}
    )
    objective = relaxed_structure(relaxation, unrolling.unroll(relaxation, 15), potential)
    return Problem(potential, relaxation, structures, layout, pairs, truth, start, objective)
