"""The memory planner: predictions against the compiler, the choice within a budget, and what follows when it errs."""

import jax
import pytest

from bptt_relax import potentials, relax, systems
from bptt_relax.adjoints import Checkpointed, Full, Guided, Implicit, Truncated
from bptt_relax.analysis import (
    FASTEST_FIRST,
    MemoryModel,
    adjoint_name,
    fit_memory,
    is_out_of_memory,
    plan,
    plan_measured,
    temporary_bytes,
    with_fallback,
)
from bptt_relax.analysis.memory import gradient_of_relaxation, stored_states
from bptt_relax.relax import Theta

FORCE, SEGMENTS = FASTEST_FIRST


def out_of_memory() -> Exception:
    """What XLA raises."""
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes.")


@pytest.fixture(scope="module")
def models() -> list[MemoryModel]:
    """A kilobyte for each atom and state that is stored, and nothing else."""
    return [MemoryModel(adjoint, 0.0, 0.0, 1000.0, 0.0) for adjoint in FASTEST_FIRST]


@pytest.mark.parametrize(
    "adjoint",
    [FORCE, pytest.param(SEGMENTS, marks=pytest.mark.slow), pytest.param(Full(), marks=pytest.mark.slow)],
    ids=adjoint_name,
)
def test_predicted_bytes_are_the_compilers(adjoint, make_silicon, make_structure):
    """Fitted to 7 and 31 atoms and at most 12 steps, right to 15% for 63 atoms and 100 steps."""
    potential = potentials.stillinger_weber()
    rule = relax.momentum(0.01, 0.5)
    relaxation = relax.relaxation(potential, rule)
    theta = Theta(potential.init(None), rule.hyper)

    def example(repeats):
        return systems.prepare(make_structure(make_silicon(repeats)), potential.graph)

    model = fit_memory(relaxation, theta, [example(1), example((2, 2, 1))], adjoint)
    positions, system = example(2)
    compiled = temporary_bytes(gradient_of_relaxation(relaxation, 100, adjoint), theta, positions, system)
    assert model.predict(positions.shape[0], 100) == pytest.approx(compiled, rel=0.15)


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
    ],
)
def test_stored_states(adjoint, stored):
    assert stored_states(adjoint, 100) == stored


def test_stored_states_of_an_unknown_adjoint():
    with pytest.raises(TypeError, match="no memory model"):
        stored_states(object(), 10)  # pyright: ignore[reportArgumentType]


def test_the_fastest_that_fits_is_chosen_and_the_rest_stands_by(models):
    roomy = plan(1e9, models, num_atoms=10, num_steps=100, micro_batch=2)
    assert roomy.fits
    assert (roomy.chosen.adjoint, roomy.chosen.micro_batch) == (FORCE, 2)
    assert [(o.adjoint, o.micro_batch) for o in roomy.fallbacks] == [(FORCE, 1), (SEGMENTS, 2), (SEGMENTS, 1)]
    tight = plan(250e3, models, num_atoms=10, num_steps=100, micro_batch=2)
    assert (tight.chosen.adjoint, tight.chosen.micro_batch) == (SEGMENTS, 1)
    assert tight.fits
    assert tight.sentence == "Checkpointed(what='segments') (200 kB) fits the budget of 250 kB"
    hopeless = plan(1e3, models, num_atoms=10, num_steps=100)
    assert not hopeless.fits
    assert hopeless.chosen.adjoint == SEGMENTS
    assert (
        hopeless.sentence
        == "nothing fits the budget of 1 kB; the smallest is Checkpointed(what='segments') (200 kB)"
    )


@pytest.mark.parametrize("wrong", [{"budget_bytes": 0.0}, {"num_atoms": 0}, {"micro_batch": 0}])
def test_sizes_must_be_positive(models, wrong):
    arguments = {"budget_bytes": 1e9, "num_atoms": 10} | wrong
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be positive"):
        plan(models=models, num_steps=10, **arguments)
    with pytest.raises(ValueError, match="at least one"):
        plan(1e9, [], num_atoms=10, num_steps=10)


def test_nothing_is_compiled_beyond_what_fits():
    sizes = {FORCE: 5e6, SEGMENTS: 1e6}
    asked = []

    def measure(adjoint):
        asked.append(adjoint)
        return sizes[adjoint]

    assert plan_measured(8e6, FASTEST_FIRST, measure).chosen.adjoint == FORCE
    assert asked == [FORCE]
    lean = plan_measured(2e6, FASTEST_FIRST, measure)
    assert (lean.chosen.adjoint, lean.fits) == (SEGMENTS, True)
    assert not plan_measured(1e3, FASTEST_FIRST, measure).fits


def test_the_next_option_takes_over_when_memory_runs_out(models):
    whole = plan(1e9, models, num_atoms=10, num_steps=100, micro_batch=2)
    tried = []

    def attempt(option):
        tried.append(option)
        if option.micro_batch > 1 or option.adjoint != SEGMENTS:
            raise out_of_memory()
        return 42

    with pytest.warns(UserWarning, match="out of memory with .* trying") as told:
        result, option = with_fallback(whole, attempt)
    assert (result, option.adjoint, option.micro_batch) == (42, SEGMENTS, 1)
    assert tried == [whole.chosen, *whole.fallbacks]
    assert len(told) == len(tried) - 1


def test_when_nothing_fits_the_error_says_what_would_help(models):
    def attempt(option):
        raise out_of_memory()

    with pytest.raises(MemoryError, match="take fewer steps"):
        with_fallback(plan(1e9, models[-1:], num_atoms=10, num_steps=100), attempt)


def test_other_errors_are_not_taken_for_a_lack_of_memory(models):
    def attempt(option):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        with_fallback(plan(1e9, models, num_atoms=10, num_steps=100), attempt)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED"))


def test_adjoints_are_called_as_they_are_written():
    assert adjoint_name(Checkpointed()) == "Checkpointed()"
    assert adjoint_name(Checkpointed("segments", segment=5)) == "Checkpointed(what='segments', segment=5)"
