"""Memory of gradients: the choice within a budget, and what is taken for a lack of memory."""

import jax
import pytest

from bptt_relax.adjoints import named
from bptt_relax.analysis import is_out_of_memory, plan_memory

FORCE = named("full")
(SEGMENTS,) = FORCE.leaner
SIZES = {FORCE: 5e6, SEGMENTS: 1e6}


def test_the_fastest_that_fits_is_chosen_and_nothing_is_compiled_beyond():
    asked = []

    def measure(adjoint):
        asked.append(adjoint)
        return SIZES[adjoint]

    roomy = plan_memory(8e6, (FORCE, SEGMENTS), measure)
    assert (roomy.adjoint, roomy.temporary_bytes, roomy.fits) == (FORCE, 5e6, True)
    assert asked == [FORCE]
    tight = plan_memory(2e6, (FORCE, SEGMENTS), measure)
    assert (tight.adjoint, tight.fits) == (SEGMENTS, True)
    assert tight.sentence == "Checkpointed(what='segments') (1 MB) fits the budget of 2 MB"


def test_where_nothing_fits_it_is_the_smallest():
    hopeless = plan_memory(1e3, (FORCE, SEGMENTS), SIZES.__getitem__)
    assert (hopeless.adjoint, hopeless.temporary_bytes, hopeless.fits) == (SEGMENTS, 1e6, False)
    assert (
        hopeless.sentence
        == "nothing fits the budget of 1 kB; the smallest is Checkpointed(what='segments') (1 MB)"
    )


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="budget_bytes must be positive, got 0"):
        plan_memory(0.0, (FORCE,), SIZES.__getitem__)
    with pytest.raises(ValueError, match="at least one"):
        plan_memory(1e9, (), SIZES.__getitem__)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    exhausted = "RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes."
    assert is_out_of_memory(jax.errors.JaxRuntimeError(exhausted))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: something else"))
    assert not is_out_of_memory(RuntimeError(exhausted))
