"""The folder of a run: chosen so that nothing is written over, locked, resumable, interruptible."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bptt_relax.outcomes import InputError

RESULTS, CONFIG, METRICS, LOCK = "results.json", "config.json", "metrics.jsonl", "lock"


def choose_folder(out: Path | None, resume: bool, name: str) -> Path:
    """Where a run goes.

    Args:
        out: what the user asked for; None for ``runs/<name>``, numbered so that each run gets its own.
        resume: continue the folder asked for, or the newest ``runs/<name>``.
        name: of experiment and preset.

    Raises:
        InputError: the folder can't be used: it holds another run, or there is nothing to resume.
    """
    if out is None:
        numbered = [Path("runs") / name, *(Path("runs") / f"{name}-{k}" for k in range(2, 10_000))]
        if resume:
            existing = [folder for folder in numbered if (folder / CONFIG).is_file()]
            if not existing:
                raise InputError(f"nothing to resume: no run under {numbered[0]}; start without --resume")
            return existing[-1]
        return next(folder for folder in numbered if not folder.exists())
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder that does not exist yet")
    if resume:
        if not (out / CONFIG).is_file():
            raise InputError(f"--out {out} holds no run to resume (no {CONFIG}); start without --resume")
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out {out} is not empty; give another folder, or continue it with --resume")
    return out


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Create the folder and hold its lock, so that two processes never write one run.

    Raises:
        InputError: the folder can't be written, or another living process holds it.
    """
    lock = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                break
            except FileExistsError:
                _remove_if_abandoned(lock, folder)
        else:
            raise InputError(f"run folder {folder} is being claimed by another process; try again")
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    with os.fdopen(handle, "w") as file:
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
    try:
        yield folder
    finally:
        lock.unlink(missing_ok=True)


def _remove_if_abandoned(lock: Path, folder: Path) -> None:
    try:
        owner = json.loads(lock.read_text())
    except (OSError, ValueError):
        owner = {}
    if owner.get("host") == socket.gethostname() and not _alive(owner.get("pid", -1)):
        lock.unlink(missing_ok=True)
        return
    raise InputError(
        f"run folder {folder} is in use by process {owner.get('pid')} on {owner.get('host')}; "
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
    with temporary.open("w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def record_config(folder: Path, config: dict[str, Any], resume: bool) -> None:
    """Store the resolved configuration, or check that a resumed run has the same one.

    Raises:
        InputError: the configuration changed between start and resume.
    """
    path = folder / CONFIG
    if resume and path.is_file():
        before = json.loads(path.read_text())
        changed = sorted(difference(before, config))
        if changed:
            raise InputError(
                f"the configuration of {folder} changed since it was started: {'; '.join(changed)}. "
                "Resume with the settings it was started with, or start another run"
            )
        return
    write_json(path, config)


def difference(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings that differ, one line each."""
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from difference(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old} -> {new}"


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a flag that long work asks for; a second one ends the process at once."""

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
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
