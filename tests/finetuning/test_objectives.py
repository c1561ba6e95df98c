"""From settings to objectives: which adjoint, run for how long, what shares programs, and what is refused."""

import jax
import numpy as np
import pytest

from bptt_relax import potentials, relax, systems
from bptt_relax.adjoints import Checkpointed, Truncated
from bptt_relax.finetuning import objectives
from bptt_relax.finetuning.objectives import Objectives, relaxed_ends
from bptt_relax.finetuning.relaxation import make_rule
from bptt_relax.finetuning.settings import (
    BpttSettings,
    ForceMatchingSettings,
    ParameterSettings,
    RecipeSettings,
    RelaxationSettings,
)

SETTINGS = RelaxationSettings(train_steps=6, test_steps=90, force_tolerance=0.02)


def described(name, **changes):
    """Of BPTT with an adjoint."""
    return relaxed_ends(RecipeSettings(relaxation=SETTINGS, bptt=BpttSettings(adjoint=name, **changes)))


@pytest.mark.parametrize("name", ["full", "first_3", "last_2", "implicit", "guided_4", "frozen"])
def test_what_looks_at_the_end_relaxes_to_it(name):
    # What goes through steps makes a given number of them.
    found = described(name)
    to_end = name in ("implicit", "guided_4", "frozen")
    assert (found.num_steps, found.force_tolerance) == ((90, 0.02) if to_end else (6, 0.0))
    assert (found.adjoint, found.step_size > 0) == (name, to_end)


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("full", [Checkpointed("force"), Checkpointed("segments")]),
        ("first_3", [Truncated(first=3)]),
        ("last_2", [Truncated(last=2)]),
    ],
)
def test_the_ways_to_take_a_gradient_are_the_fastest_first(name, ways):
    potential = potentials.stillinger_weber()
    found = described(name).build(potential, potential.init(None))
    assert [way.label for way in found] == [str(way) for way in ways]


def test_each_description_is_built_once_and_nothing_else_is_shared():
    """Whatever changes an objective changes its description."""
    potential = potentials.stillinger_weber()
    make = Objectives(potential, potential.init(None))
    base = RecipeSettings(relaxation=SETTINGS)
    same = RecipeSettings(relaxation=SETTINGS.model_copy(update={"step_size": 0.05}), seed=3)
    assert make(relaxed_ends(base)) is make(relaxed_ends(same))
    assert make(objectives.forces(base)) is make(objectives.forces(same))
    others = [
        RecipeSettings(relaxation=SETTINGS.model_copy(update={"rule": "descent"})),
        RecipeSettings(relaxation=SETTINGS.model_copy(update={"cap": 0.2})),
        RecipeSettings(relaxation=SETTINGS.model_copy(update={"train_steps": 7})),
        RecipeSettings(relaxation=SETTINGS, bptt=BpttSettings(adjoint="first_3")),
        RecipeSettings(relaxation=SETTINGS, bptt=BpttSettings(distance="rmsd")),
        RecipeSettings(relaxation=SETTINGS, bptt=BpttSettings(softening=0.1)),
        RecipeSettings(relaxation=SETTINGS, bptt=BpttSettings(cell_weight=0.5)),
        RecipeSettings(relaxation=SETTINGS, bptt=BpttSettings(anchor_weight=1.0)),
        RecipeSettings(relaxation=SETTINGS, parameters=ParameterSettings(rank=2)),
    ]
    assert len({relaxed_ends(settings) for settings in (base, *others)}) == 1 + len(others)
    matching = [ForceMatchingSettings(huber_delta=0.2), ForceMatchingSettings(stress_weight=0.5)]
    recipes = (base, *(RecipeSettings(force_matching=one) for one in matching), others[-1])
    assert len({objectives.forces(settings) for settings in recipes}) == len(recipes)


@pytest.mark.parametrize("name", ["reverse", "first", "first_0", "full_3", "guided_x", ""])
def test_other_names_are_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"no adjoint .*there are frozen, full, implicit, .*guided_K"):
        BpttSettings(adjoint=name)


def test_a_rule_learns_nothing_from_the_end():
    with pytest.raises(ValueError, match="learn_rule with adjoint implicit"):
        BpttSettings(adjoint="implicit", learn_rule=True)
    assert BpttSettings(adjoint="guided_3", learn_rule=True).learn_rule


@pytest.mark.slow
def test_every_adjoint_trains(make_silicon, make_structure):
    """One gradient of each from its description, against that of the whole converged relaxation."""
    relaxation = RelaxationSettings(
        step_size=0.02, decay=0.5, train_steps=150, test_steps=150, force_tolerance=1e-3
    )
    potential, rule = potentials.stillinger_weber(), make_rule(relaxation)
    theta = relax.Theta(potential.init(None), rule.hyper)
    structure = make_structure(make_silicon(1, rattle=0.02))
    noise = 0.05 * np.random.default_rng(0).normal(size=structure.positions.shape)
    target = structure._replace(positions=structure.positions + noise)
    pair = systems.prepare_pair(structure, target, potential.graph)

    def gradient(name):
        bptt = BpttSettings(adjoint=name, softening=0.0)
        way = relaxed_ends(RecipeSettings(relaxation=relaxation, bptt=bptt)).build(
            potential, theta.potential
        )[0]
        (value, _), found = jax.jit(way.value_and_grad)(theta, pair)
        assert np.isfinite(float(value))
        return np.array([float(leaf) for leaf in jax.tree.leaves(found.potential)])

    full = gradient("full")
    assert np.linalg.norm(full) > 1e-3
    # At a minimum the end says all there is to say, and so do the last steps that led there.
    np.testing.assert_allclose(gradient("implicit"), full, rtol=0.02, atol=0.02 * np.linalg.norm(full))
    last = gradient("last_60")
    np.testing.assert_allclose(last, full, rtol=0.05, atol=0.05 * np.linalg.norm(full))
    assert np.all(np.isfinite(gradient("guided_8")))
    assert np.linalg.norm(gradient("frozen")) > 0
