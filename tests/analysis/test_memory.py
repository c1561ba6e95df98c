"""Memory of programs: what they take, what there is, and what is taken for a lack of it."""

import os
from pathlib import Path

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


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux tells how much memory there is")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a card tells of its own memory")
def test_what_there_is_is_what_the_machine_says():
    told = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = available_memory()
    assert available is not None
    assert 1e-3 * told < available <= told


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
