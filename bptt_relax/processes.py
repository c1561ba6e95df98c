"""Long work and the processes that do it: one at a time where they write, and stopped without losing anything."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bptt_relax.outcomes import InputError


@contextlib.contextmanager
def locked(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file, so that two processes never write the same thing; one that a dead process left is taken over.

    Args:
        lock: its folder is made where there is none.
        what: is locked, for messages.

    Raises:
        InputError: the folder can't be written, or another living process holds the lock.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                break
            except FileExistsError:
                _remove_if_abandoned(lock, what)
        else:
            raise InputError(f"{what} is being claimed by another process; try again")
    except OSError as error:
        raise InputError(f"cannot write to {lock.parent}: {error.strerror}; choose another --out") from error
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
    except OSError:
        lock.unlink(missing_ok=True)
        raise
    _held.add(lock)
    try:
        yield
    finally:
        _held.discard(lock)
        lock.unlink(missing_ok=True)


_held: set[Path] = set()


def release_locks() -> None:
    """Give up every lock that this process holds, before it is ended from outside its main thread."""
    for lock in list(_held):
        lock.unlink(missing_ok=True)


CLAIMED_WITHIN = 10.0
"""Seconds after which a lock that still names nobody was left by a process that died while it claimed it."""


def _remove_if_abandoned(lock: Path, what: str) -> None:
    try:
        owner = json.loads(lock.read_text())
    except (OSError, ValueError):
        owner = {}
    if not owner and lock.exists() and time.time() - lock.stat().st_mtime > CLAIMED_WITHIN:
        lock.unlink(missing_ok=True)
        return
    if owner.get("host") == socket.gethostname() and not _alive(owner.get("pid", -1)):
        lock.unlink(missing_ok=True)
        return
    raise InputError(
        f"{what} is in use by process {owner.get('pid')} on {owner.get('host')}; "
        f"wait for it, or remove {lock} if that process is gone"
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is complete or absent, whatever happens meanwhile."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(
    path: Path,
    convert: Callable[[Any], Any] = lambda value: value,
    *,
    fix: str = "remove it to have it made again, or start another run",
) -> Any:
    """Read what `write_json` wrote.

    Args:
        path: of the file.
        convert: makes of it what it stands for; what that can't be made of is damaged.
        fix: what to do about a damaged file.

    Raises:
        InputError: the file can't be read or is damaged.
    """
    try:
        return convert(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        what = (
            str(error) if isinstance(error, OSError | ValueError) else f"not what it should hold: {error!r}"
        )
        raise InputError(f"{path} is damaged ({what}); {fix}") from error


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object, for `read_json`.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} instead of an object")
    return value


def difference(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings that differ, one line each."""
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from difference(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old} -> {new}"


class StopSignal:
    """Turns Ctrl-C, SIGTERM and SIGUSR1 into a flag that long work asks for; a second one ends the process at once.

    SIGUSR1 is how SLURM can be asked to warn that the time is almost up.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.number is not None

    def _receive(self, number: int, frame: object) -> None:
        del frame
        self.number = number
        signal.signal(number, signal.SIG_DFL)

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopSignal"]:
        """Listen inside the block, then put the old handlers back."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGUSR1"):
            numbers.append(signal.SIGUSR1)
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
