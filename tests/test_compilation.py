"""Compiled programs of a process, and the memory maps that they take."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bptt_relax.compilation import make_room

MAPS = Path("/proc/self/maps")

pytestmark = pytest.mark.skipif(not MAPS.exists(), reason="this system counts no memory maps")


def num_maps():
    return len(MAPS.read_text().splitlines())


@pytest.fixture
def programs():
    functions = [jax.jit(lambda x, k=k: jnp.sort(jnp.sin(k * x) @ x)[k]) for k in range(20)]
    for function in functions:
        function(jnp.ones((30, 30)))
    return functions


def test_programs_are_kept_where_there_is_room(programs):
    # More than there can be: what tests before this one compiled has no say.
    assert not make_room(most=2.0)
    assert all(function._cache_size() == 1 for function in programs)


def test_without_room_programs_and_their_maps_go_and_come_again(programs):
    before, expected = num_maps(), programs[3](jnp.eye(30))
    assert make_room(most=0.0)
    assert num_maps() < before - len(programs)
    assert all(function._cache_size() == 0 for function in programs)
    assert (programs[3](jnp.eye(30)) == expected).all()
