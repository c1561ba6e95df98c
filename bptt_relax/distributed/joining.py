"""How a process finds the others, and how it leaves."""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from bptt_relax import processes as host
from bptt_relax.distributed import communication as known
from bptt_relax.distributed.communication import Processes, Several
from bptt_relax.distributed.watch import Watch
from bptt_relax.outcomes import EXIT_CODES, InputError, Interrupted

SLURM = ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_ID")
"""What a process that ``srun`` started knows; in a batch script or ``salloc`` some are missing."""


class Place(NamedTuple):
    """Of one process among several.

    Attributes:
        coordinator: host:port of the first.
        count: of processes.
        index: of this one.
    """

    coordinator: str
    count: int
    index: int


@contextlib.contextmanager
def joined(
    *,
    auto: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[Processes]:
    """Work on one run together with other processes, each of which calls this; before JAX touches a device.

    All but the first say nothing but errors. Where one is gone, the others end with exit code 5 and a sentence.
    Nothing happens where nothing is asked for.

    Args:
        auto: find the others as SLURM says.
        coordinator: host:port of the first process, the same in all of them.
        num_processes: how many there are.
        process_id: 0 for the first.

    Raises:
        InputError: what was asked for is incomplete or can't be, or the others did not come.
    """
    place = _place(auto, coordinator, num_processes, process_id)
    if place is None or place.count == 1:
        yield Processes()
        return
    with tempfile.TemporaryDirectory(prefix="bptt-relax-", ignore_cleanup_errors=True) as scratch:
        watch = Watch(*place, before_end=lambda: _clean_up(scratch))
        _initialize(watch.coordinator, place)
        several = Several(Path(scratch).resolve())
        known._current.append(several)
        try:
            with _only_first_speaks(place.index):
                yield several
        except Interrupted as interruption:
            _leave(several, watch)
            if place.index:
                raise SystemExit(128 + interruption.signal) from None
            raise
        except Exception as error:
            if not isinstance(error, tuple(kind for kind, _ in EXIT_CODES)):
                # A collective fails a moment before the watch says why, and ends the process.
                time.sleep(3.0)
            watch.give_up(error)
            raise
        else:
            _leave(several, watch)
        finally:
            known._current.remove(several)


def _initialize(coordinator: str, place: Place) -> None:
    # It would take SIGTERM for itself, which stops a run in order here.
    with contextlib.suppress(AttributeError):
        jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator,
        place.count,
        place.index,
        coordinator_bind_address=coordinator,
        cluster_detection_method="deactivate",
    )


def _clean_up(scratch: str) -> None:
    host.release_locks()
    shutil.rmtree(scratch, ignore_errors=True)


def _leave(several: Several, watch: Watch) -> None:
    several.gather(None)
    watch.close()
    jax.distributed.shutdown()


@contextlib.contextmanager
def _only_first_speaks(index: int) -> Iterator[None]:
    if index == 0:
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _place(
    auto: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Place | None:
    given = {
        "--distributed.coordinator": coordinator,
        "--distributed.num-processes": num_processes,
        "--distributed.process-id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 3:
        return slurm_place(os.environ) if auto else None
    if missing:
        raise InputError(
            f"of several processes each needs {', '.join(given)}; {', '.join(missing)} is missing"
        )
    assert coordinator is not None
    assert num_processes is not None
    assert process_id is not None
    if not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise InputError(f"--distributed.coordinator {coordinator} is not host:port of the first process")
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--distributed.process-id {process_id} is not one of 0 to {num_processes - 1} "
            f"(--distributed.num-processes {num_processes})"
        )
    return Place(coordinator, num_processes, process_id)


def slurm_place(environment: Mapping[str, str]) -> Place:
    """The place of a process that ``srun`` started.

    Args:
        environment: variables of the process.

    Raises:
        InputError: ``srun`` did not start it.
    """
    missing = [name for name in SLURM if name not in environment]
    if missing:
        raise InputError(
            f"--distributed finds no other processes: {', '.join(missing)} not set. Start with srun, or give "
            "--distributed.coordinator, --distributed.num-processes and --distributed.process-id"
        )
    nodes, count, index, job = (environment[name] for name in SLURM)
    # node[003-007,012],other: the first is node003.
    first = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
    if first is None:
        raise InputError(f"SLURM_STEP_NODELIST={nodes} names no host")
    # Like everybody's, from the job: two jobs on one host do not meet.
    port = 61440 + int(job) % 4096
    return Place(f"{first[1]}{first[2] or ''}:{port}", int(count), int(index))
