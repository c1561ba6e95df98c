"""From the name of an adjoint to its gradient: what is run for how long, and what is refused."""

import jax
import numpy as np
import pytest
from bptt_relax.finetuning.differentiation import choose

from bptt_relax import relax
from bptt_relax.adjoints import Checkpointed, FrozenGeometry, Guided, Implicit, Truncated
from bptt_relax.finetuning.settings import BpttSettings, RelaxationSettings

SETTINGS = RelaxationSettings(train_steps=6, test_steps=90, force_tolerance=0.02)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("first_3", Truncated),
        ("last_2", Truncated),
        ("implicit", Implicit),
        ("guided_4", Guided),
        ("frozen", FrozenGeometry),
    ],
)
def test_each_name_is_its_adjoint(name, kind):
    found = choose(BpttSettings(adjoint=name).adjoint, SETTINGS)
    (adjoint,) = found.adjoints
    assert isinstance(adjoint, kind)
    # What looks at the end relaxes to it, what goes through steps makes a given number of them.
    to_end = kind is not Truncated
    assert (found.num_steps, found.force_tolerance) == ((90, 0.02) if to_end else (6, 0.0))


def test_windows_and_tolerances_are_those_asked_for():
    assert choose("first_3", SETTINGS).adjoints == (Truncated(first=3),)
    assert choose("last_2", SETTINGS).adjoints == (Truncated(last=2),)
    (guided,) = choose("guided_4", SETTINGS).adjoints
    assert (guided.window, guided.implicit.force_tolerance) == (4, 0.02)
    assert choose("full", SETTINGS) == ((Checkpointed("force"), Checkpointed("segments")), 6, 0.0)


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
    """One gradient of each through the programs of a bench, against that of the whole converged relaxation."""
    from bptt_relax.finetuning.programs import Programs
    from bptt_relax.finetuning.stages import make_rule

    from bptt_relax import losses, potentials, systems

    settings = RelaxationSettings(
        step_size=0.02, decay=0.5, train_steps=150, test_steps=150, force_tolerance=1e-3
    )
    potential, rule = potentials.stillinger_weber(), make_rule(settings)
    theta = relax.Theta(potential.init(None), rule.hyper)
    structure = make_structure(make_silicon(1, rattle=0.02))
    noise = 0.05 * np.random.default_rng(0).normal(size=structure.positions.shape)
    target = structure._replace(positions=structure.positions + noise)
    pair = systems.prepare_pair(structure, target, potential.graph)

    def gradient(name):
        programs = Programs(
            potential=potential,
            rule=rule,
            differentiation=choose(name, settings),
            huber_delta=0.1,
            anchor=theta,
            anchor_weight=0.0,
            distance=losses.delta_q,
            softening=0.0,
            force_weight=0.0,
        )
        (value, _), found = jax.jit(programs.structure().value_and_grad)(theta, pair)
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
