import errno
import json
from datetime import datetime
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax.outcomes import InputError
from bptt_relax.report import MetricsFile, read_metrics


def test_events_are_on_disk_at_once_with_a_time(tmp_path):
    with MetricsFile(tmp_path / "new" / "metrics.jsonl", seed=3) as metrics:
        metrics.write({"event": "step", "loss": 1.5})
        (event,) = read_metrics(metrics.path)
    assert datetime.fromisoformat(event.pop("time")).utcoffset().total_seconds() == 0
    assert event == {"seed": 3, "event": "step", "loss": 1.5}


def test_numbers_of_every_kind_become_plain_json(tmp_path):
    with MetricsFile(tmp_path / "m") as metrics:
        metrics(
            {
                "numpy": np.float32(0.5),
                "integer": np.int64(3),
                "array": jnp.arange(2),
                "path": Path("a"),
                "nan": float("nan"),
                "infinite": np.float64("inf"),
                "flag": np.bool_(True),
                "nested": [(1, float("-inf"))],
            }
        )
    text = (tmp_path / "m").read_text()
    event = json.loads(text, parse_constant=pytest.fail)
    event.pop("time")
    assert event == {
        "numpy": 0.5,
        "integer": 3,
        "array": [0, 1],
        "path": "a",
        "nan": None,
        "infinite": None,
        "flag": True,
        "nested": [[1, None]],
    }


def test_a_truncated_last_line_is_left_out_then_cut_off(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b'{"event": "a"}\n{"event": "b", "na\xc3')
    assert read_metrics(path) == [{"event": "a"}]
    with MetricsFile(path) as metrics:
        metrics.write({"event": "c"})
    assert [event["event"] for event in read_metrics(path)] == ["a", "c"]


def test_a_broken_line_elsewhere_is_refused_with_its_number(tmp_path):
    path = tmp_path / "m"
    path.write_text('{"event": "a"}\noops\n{"event": "b"}\n')
    with pytest.raises(InputError, match="line 2"):
        read_metrics(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        read_metrics(tmp_path / "nowhere")


def test_an_empty_file_has_no_events(tmp_path):
    with MetricsFile(tmp_path / "m"):
        pass
    assert read_metrics(tmp_path / "m") == []


def test_an_event_without_room_is_left_out_whole(tmp_path):
    class Full:
        """A file on a disk that is full after half a line."""

        def __init__(self, file):
            self.fileno, self.close, self._write = file.fileno, file.close, file.write

        def write(self, line):
            self._write(line[: len(line) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    with MetricsFile(tmp_path / "m.jsonl") as metrics:
        assert metrics.write({"event": "one"})
        there = metrics._file
        metrics._file = Full(there)
        assert not metrics.write({"event": "two"})
        metrics._file = there
        assert metrics.write({"event": "three"})
    assert [event["event"] for event in read_metrics(tmp_path / "m.jsonl")] == ["one", "three"]


def test_a_file_with_a_damaged_line_is_not_continued(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b'{"event": 1}\n\xff\xfe\n{"event": 2}\n')
    with pytest.raises(InputError, match=r"m\.jsonl, line 2 is not an event.*--resume goes on"):
        MetricsFile(tmp_path / "m.jsonl")
