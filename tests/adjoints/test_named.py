"""What adjoints say of themselves: names, what they need, how much they store."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest

from bptt_relax import adjoints, potentials, relax, systems, unrolling
from bptt_relax.adjoints import (
    Adjoint,
    Checkpointed,
    FrozenGeometry,
    Full,
    Guided,
    Implicit,
    Truncated,
    named,
)
from bptt_relax.analysis import temporary_bytes
from bptt_relax.relax import Theta

EVERY = (
    Full(),
    Checkpointed(),
    Checkpointed("force"),
    Checkpointed("segments", segment=5),
    Truncated(first=8),
    Truncated(last=3),
    Implicit(),
    Guided(8),
    FrozenGeometry(),
)


def test_no_exported_adjoint_is_left_out_here():
    exported = {
        kind for kind in vars(adjoints).values() if isinstance(kind, type) and issubclass(kind, Adjoint)
    }
    assert exported - {Adjoint} == {type(adjoint) for adjoint in EVERY}


@pytest.mark.parametrize("adjoint", EVERY, ids=str)
def test_a_name_makes_an_adjoint_of_that_name(adjoint):
    again = named(adjoint.name)
    assert again.name == adjoint.name
    assert type(again) is (Checkpointed if adjoint.name == "full" else type(adjoint))
    assert (again.needs_fixed_cell, again.needs_convergence) == (
        adjoint.needs_fixed_cell,
        adjoint.needs_convergence,
    )


def test_arguments_go_to_those_that_have_them():
    given = {"force_tolerance": 0.02, "tolerance": 1e-2, "step_size": 0.1}
    assert named("implicit", **given) == Implicit(0.02, tolerance=1e-2)
    assert named("guided_4", **given) == Guided(4, implicit=Implicit(0.02, tolerance=1e-2))
    assert named("guided_4", weight=0.3) == Guided(4, weight=0.3)
    assert named("frozen", **given) == FrozenGeometry(0.1)
    assert named("full", **given) == Checkpointed("force")
    assert named("first_3", **given) == Truncated(first=3)
    assert named("last_12", **given) == Truncated(last=12)
    with pytest.raises(TypeError, match="no adjoint has an argument stepsize"):
        named("frozen", stepsize=0.1)


@pytest.mark.parametrize(
    "name", ["reverse", "first", "first_K", "first_0", "full_3", "guided_x", "guided_-1", ""]
)
def test_other_names_are_refused_with_those_there_are(name):
    with pytest.raises(
        ValueError, match=r"no adjoint .*there are frozen, full, implicit.* first_K, guided_K, last_K"
    ):
        named(name)


def test_one_of_ones_own_needs_nothing_but_its_class():
    @dataclasses.dataclass(frozen=True)
    class Twice(Adjoint):
        names: ClassVar[tuple[str, ...]] = ("twice",)
        scale: float = 2.0

        @property
        def name(self):
            return "twice"

        def stored_states(self, num_steps):
            return 2 * num_steps

        def build(self, relaxation, num_steps, record):
            return Full().build(relaxation, num_steps, record)

    assert named("twice", scale=3.0) == Twice(3.0)
    assert str(named("twice", scale=3.0)).endswith("Twice(scale=3.0)")
    assert named("twice").leaner == ()


def test_adjoints_are_shown_as_they_are_written():
    assert str(Checkpointed()) == "Checkpointed()"
    assert str(Checkpointed("segments", segment=5)) == "Checkpointed(what='segments', segment=5)"
    assert str(Guided(8)) == "Guided(window=8)"


def test_leaner_ones_have_the_same_gradient_and_store_less():
    for adjoint in EVERY:
        stored = [a.stored_states(400) for a in (adjoint, *adjoint.leaner)]
        assert stored == sorted(stored, reverse=True)
        assert {a.name for a in adjoint.leaner} <= {adjoint.name}
    assert [str(a) for a in named("full").leaner] == ["Checkpointed(what='segments')"]


@pytest.mark.parametrize(
    ("adjoint", "stored"),
    [
        (Full(), 100),
        (Checkpointed(), 100),
        (Checkpointed("segments"), 20),
        (Checkpointed("segments", segment=30), 34),
        (Truncated(first=8), 8),
        (Truncated(last=8), 16),
        (Guided(8), 8),
        (Implicit(), 0),
        (Implicit(on_unusable="unroll"), 100),
        (FrozenGeometry(), 0),
    ],
    ids=str,
)
def test_stored_states(adjoint, stored):
    assert adjoint.stored_states(100) == stored


@pytest.mark.parametrize(
    "adjoint",
    [
        Checkpointed("force"),
        Truncated(first=20),
        *(
            pytest.param(adjoint, marks=pytest.mark.slow)
            for adjoint in (Checkpointed("segments"), Full(), Truncated(last=20), Implicit())
        ),
    ],
    ids=str,
)
def test_memory_grows_with_what_is_stored(adjoint, make_silicon, make_structure):
    """From 4 and 12 steps to 100, to 15%: temporary memory is linear in the number of stored states."""
    potential = potentials.stillinger_weber()
    rule = relax.momentum(0.01, 0.5)
    relaxation = relax.relaxation(potential, rule)
    theta = Theta(potential.init(None), rule.hyper)
    positions, system = systems.prepare(make_structure(make_silicon(2)), potential.graph)

    def measure(num_steps):
        run = unrolling.unroll(relaxation, num_steps, adjoint)

        def loss(theta, positions, system):
            return jnp.sum(run(theta, relaxation.init(theta, positions, system), system).state.positions ** 2)

        return temporary_bytes(jax.value_and_grad(loss), theta, positions, system)

    few, more, many = (adjoint.stored_states(n) for n in (4, 12, 100))
    small, large = measure(4), measure(12)
    slope = (large - small) / max(1, more - few)
    assert measure(100) == pytest.approx(small + slope * (many - few), rel=0.15)
