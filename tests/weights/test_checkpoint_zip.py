"""Checkpoints are written and read without torch, and hold nothing but plain values."""

import numpy as np
import pytest

from bptt_relax.weights import checkpoint_zip


def test_a_checkpoint_is_read_as_it_was_written():
    content = {
        "model": {
            "weights": {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(()), "c": np.zeros((0, 4))},
            "arguments": {"x": 1.5, "n": [1, -2, 300, 10**12], "yes": True, "no": False, "none": None},
            "text": "ä \n",
            "pair": (1, "two"),
        }
    }
    data = checkpoint_zip.write(content)
    assert checkpoint_zip.write(content) == data
    found = checkpoint_zip.read(data, "test")["model"]
    assert {k: v for k, v in found.items() if k != "weights"} == {
        k: v for k, v in content["model"].items() if k != "weights"
    }
    for key, array in content["model"]["weights"].items():
        assert found["weights"][key].dtype == np.float32
        np.testing.assert_array_equal(found["weights"][key], array)


def test_what_a_checkpoint_can_not_hold_is_refused():
    with pytest.raises(TypeError, match="can't hold"):
        checkpoint_zip.write({"model": object()})
