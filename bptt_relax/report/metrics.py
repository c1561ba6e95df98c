"""Metrics as JSON lines: one event a line, on disk as soon as it happens."""

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bptt_relax.outcomes import InputError, why_unwritable


class MetricsFile:
    """Appends events to a JSON-lines file; a killed process loses at most the line being written.

    A file left by an interrupted run is continued. Half a line at its end is cut off first, and so is one for which
    the disk had no room: nothing but the last line of a metrics file can ever be broken.

    Args:
        path: created where absent, with its folder.
        context: added to every event, for example ``seed=0``.

    Attributes:
        path: of the file.
        context: may be changed on the way.

    Raises:
        InputError: a file to be continued is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], **context: Any):
        self.path = Path(path)
        self.context = context
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            read_metrics(self.path)
            _cut_half_line(self.path)
        self._file = self.path.open("ab", buffering=0)

    def write(self, event: dict[str, Any]) -> bool:
        """Append one event with the time (UTC, ISO 8601) under ``time``; numbers that are not finite become null.

        Returns:
            whether there was room for it.
        """
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = _jsonable({"time": stamp, **self.context, **event})
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line) == len(line)
        except OSError as error:
            if why_unwritable(error) is None:
                raise
            written = False
        if not written:
            os.ftruncate(self._file.fileno(), end)
        return written

    __call__ = write

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._file.close()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the events of a metrics file, without a last line that was cut short.

    Raises:
        InputError: there is no such file, or a line before the last one is not an event.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"can't read metrics from {path}: {error.strerror}") from error
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            if not isinstance(event, dict):
                raise ValueError
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise InputError(
                f"{path}, line {number} is not an event: the file is damaged; remove this line, and --resume goes on"
            ) from error
        events.append(event)
    return events


def _cut_half_line(path: Path) -> None:
    with path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def _jsonable(value: Any) -> Any:
    """Plain JSON of nested containers, numpy and JAX scalars and arrays, and paths."""
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    return str(value)
