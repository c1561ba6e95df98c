"""Memory of programs: what they take, what there is, and what is taken for a lack of it."""

import jax
import jax.numpy as jnp
import pytest

from bptt_relax import analysis
from bptt_relax.analysis import is_out_of_memory
from bptt_relax.analysis.memory import available_memory


@pytest.mark.parametrize("size", [1000, 2000])
def test_a_program_takes_what_it_keeps_between_two_passes(size):
    def twice_sorted(x):
        return jnp.sort(jnp.sort(x)[::-1] * x)

    taken = analysis.temporary_bytes(twice_sorted, jnp.zeros(size, jnp.float64))
    assert 8 * size <= taken <= 4 * 8 * size


def test_what_there_is_is_told_on_this_machine():
    available = available_memory()
    assert available is None or available > 1e6


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError("no"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."), True),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no"), False),
        (ValueError("RESOURCE_EXHAUSTED"), False),
    ],
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(error, expected):
    assert is_out_of_memory(error) is expected
