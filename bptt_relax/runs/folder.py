"""The folder of a run: chosen so that nothing is written over, locked, resumable, interruptible."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bptt_relax import distributed, processes
from bptt_relax.outcomes import InputError

RESULTS, CONFIG, METRICS, LOCK = "results.json", "config.json", "metrics.jsonl", "lock"


def choose(out: Path | None, resume: bool, name: str) -> Path:
    """Where a run goes; in all but the first of several processes, what stands for it there.

    Args:
        out: what the user asked for; None for ``runs/<name>``, numbered so that each run gets its own.
        resume: continue the folder asked for, or the newest ``runs/<name>``.
        name: of experiment and preset.

    Raises:
        InputError: the folder can't be used: it holds another run, or there is nothing to resume.
    """
    together = distributed.processes()
    return together.own(Path(together.of_first(lambda: str(_choose(out, resume, name)))))


def _choose(out: Path | None, resume: bool, name: str) -> Path:
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
    with processes.locked(folder / LOCK, f"run folder {folder}"):
        yield folder


def record_config(folder: Path, config: dict[str, Any], resume: bool) -> None:
    """Store the resolved configuration, or check that a resumed run has the same one.

    Raises:
        InputError: the configuration changed between start and resume.
    """
    path = folder / CONFIG
    if resume and path.is_file():
        fix = "put back the file that the run was started with, or start another run"
        before = processes.read_json(path, processes.mapping, fix=fix)
        changed = sorted(processes.difference(before, config))
        if changed:
            raise InputError(
                f"the configuration of {folder} changed since it was started: {'; '.join(changed)}. "
                "Resume with the settings it was started with, or start another run"
            )
        return
    processes.write_json(path, config)


def check_shared(folder: Path) -> None:
    """Of several processes, make sure that each sees the folder of the run.

    Raises:
        InputError: this one does not.
    """
    together = distributed.processes()
    together.of_first(lambda: None)  # By now the first one has made it.
    run = together.shared(folder)
    if not run.is_dir():
        raise InputError(
            f"process {together.index} of {together.count} does not see the folder of the run, {run}: "
            "give an --out that every host shares"
        )
