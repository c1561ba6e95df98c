"""Checkpoints are written and read without torch, and hold nothing but plain values."""

import io
import struct
import zipfile

import numpy as np
import pytest

from bptt_relax.outcomes import InputError
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


def with_numpy_array(dtype: str, text: str, codec: str = "latin1") -> bytes:
    """A checkpoint with one numpy array, its pickle written as numpy and torch write theirs."""

    def short(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    kind = (
        b"cnumpy\ndtype\n("
        + short(dtype)
        + b"\x89\x88tR(K\x03"
        + short("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    content = b"c_codecs\nencode\n(" + short(text) + short(codec) + b"tR"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + short("b") + b"tR"
    pickled = b"\x80\x02}" + short("a") + array + b"(K\x01(K\x02t" + kind + b"\x89" + content + b"tbs."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return file.getvalue()


def test_plain_numpy_arrays_are_read_and_nothing_else_of_numpy():
    values = np.array([1.5, -2.0], np.float32)
    found = checkpoint_zip.read(with_numpy_array("f4", values.tobytes().decode("latin1")), "test")["a"]
    np.testing.assert_array_equal(found, values)
    with pytest.raises(InputError, match="an array holds 'O8', which is no plain number"):
        checkpoint_zip.read(with_numpy_array("O8", "x"), "test")
    with pytest.raises(InputError, match="bytes are written as 'zlib'"):
        checkpoint_zip.read(with_numpy_array("f4", "x", codec="zlib"), "test")
    with pytest.raises(InputError, match="test is a broken checkpoint"):
        checkpoint_zip.read(with_numpy_array("f4", "cut"), "test")
