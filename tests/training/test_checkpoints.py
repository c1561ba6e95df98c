import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax.outcomes import InputError
from bptt_relax.relax import Theta
from bptt_relax.training import Checkpoints

TREE = Theta({"w": jnp.arange(3.0), "n": jnp.asarray(2)}, (jnp.asarray(0.5), ()))


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints")
    yield opened
    opened.close()


def test_round_trip_keeps_values_types_and_notes(checkpoints):
    for number in range(4):
        checkpoints.save(number, TREE._replace(rule=(jnp.asarray(float(number)), ())), {"epoch": number})
    restored, meta = checkpoints.restore(TREE)
    assert isinstance(restored, Theta)
    assert float(restored.rule[0]) == 3.0
    assert restored.potential["n"].dtype == TREE.potential["n"].dtype
    assert meta == {"epoch": 3}
    assert float(checkpoints.restore(TREE, 2)[0].rule[0]) == 2.0


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            TREE._replace(potential={"w": jnp.arange(3, dtype=jnp.float32), "n": jnp.asarray(2)}),
            "float64.*expected float32",
        ),
        (TREE._replace(potential={"w": jnp.arange(4.0), "n": jnp.asarray(2)}), r"\[3\], expected .*\[4\]"),
        (
            TREE._replace(potential={"w": jnp.arange(3.0), "m": jnp.asarray(2)}),
            "potential/m is missing; potential/n is unexpected",
        ),
    ],
)
def test_another_dtype_shape_or_structure_is_refused(checkpoints, expected, message):
    checkpoints.save(0, TREE, {})
    with pytest.raises(InputError, match=message):
        checkpoints.restore(expected)


ON_A_SECOND_DEVICE = """
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from bptt_relax.training import Checkpoints
opened = Checkpoints(Path(sys.argv[1]))
opened.save(0, jax.device_put({"w": jnp.arange(3, dtype=jnp.float32)}, jax.devices()[1]), {})
opened.close()
"""


def test_a_checkpoint_of_a_device_that_is_not_here_goes_to_the_one_that_is(tmp_path):
    two = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", ON_A_SECOND_DEVICE, str(tmp_path)], env=two, check=True)
    opened = Checkpoints(tmp_path)
    expected = {"w": jnp.zeros(3, jnp.float32)}
    restored, _ = opened.restore(expected)
    opened.close()
    np.testing.assert_array_equal(restored["w"], [0.0, 1.0, 2.0])
    assert restored["w"].devices() == {jax.devices()[0]}


def test_nothing_to_resume(checkpoints):
    with pytest.raises(InputError, match="nothing to resume"):
        checkpoints.restore(TREE)


def a_file(folder, pattern):
    """The largest file of a checkpoint that matches."""
    return max(folder.rglob(pattern), key=lambda path: path.stat().st_size)


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "flipped": lambda content: b"".join(
        [
            content[: len(content) // 2],
            bytes([content[len(content) // 2] ^ 0x40]),
            content[len(content) // 2 + 1 :],
        ]
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("pattern", ["ocdbt.process_0/d/*", "meta/metadata", "_METADATA"])
def test_what_is_damaged_is_put_aside_for_the_one_before(tmp_path, pattern, how):
    """A flipped bit in the numbers too, which Orbax hands out without a word."""
    tree = {"w": jnp.asarray(np.random.default_rng(0).normal(size=500))}
    with Checkpoints(tmp_path) as checkpoints:
        for number in (3, 7):
            checkpoints.save(number, {"w": number * tree["w"]}, {"epoch": number, "left": [0.1] * number})
    path = a_file(tmp_path / "7", pattern)
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    with Checkpoints(tmp_path) as checkpoints:
        restored, meta = checkpoints.restore(tree)
        assert meta["epoch"] == 3
        np.testing.assert_array_equal(restored["w"], 3 * tree["w"])
        (said,) = checkpoints.damaged
        assert f"{tmp_path / '7'} is damaged" in said
        assert said.endswith("put aside as 7.damaged; going on from 3")
        checkpoints.save(7, tree, {"epoch": 8})
        assert checkpoints.restore(tree)[1] == {"epoch": 8}
    assert (tmp_path / "7.damaged").is_dir()


def test_nothing_whole_is_left(checkpoints, tmp_path):
    for number in (0, 1):
        checkpoints.save(number, TREE, {})
        (tmp_path / "checkpoints" / str(number) / "meta" / "metadata").write_text("")
    with pytest.raises(
        InputError, match=r"1 is damaged .*none before it .*remove .* to train this stage anew"
    ):
        checkpoints.restore(TREE)
