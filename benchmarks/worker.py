"""A process of its own that builds programs and runs them when told to: ``python -m benchmarks.worker``.

One request per line on standard input, one answer per line on standard output, both JSON. A fresh process makes
its peak memory its own, and waiting for the next request it takes no time from the others.
"""

import contextlib
import ctypes
import gc
import json
import os
import re
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from benchmarks.contract import Case, Program
from benchmarks.entries import ENTRIES

PEERS = ("equinox", "lineax", "optimistix", "torch", "chgnet")


class Worker:
    """Answers requests; each method named ``do_...`` is one kind of request."""

    def __init__(self) -> None:
        self._programs: dict[str, Program] = {}

    def do_hello(self) -> dict[str, Any]:
        """What it runs on."""
        from bptt_relax.report import environment

        found = environment()
        # The command of the worker says nothing; that of the suite is the same for all.
        del found["command"]
        for package in PEERS:
            with contextlib.suppress(metadata.PackageNotFoundError):
                found["packages"][package] = metadata.version(package)
        return found | {"processor": processor()}

    def do_build(self, entry: str, case: list) -> dict[str, Any]:
        """Compile one entry for one case."""
        program = ENTRIES[entry].build(Case(*case))
        self._programs[entry] = program
        return {
            "trace_seconds": program.trace_seconds,
            "compile_seconds": program.compile_seconds,
            "temp_bytes": program.temp_bytes,
        }

    def do_first(self, entry: str) -> dict[str, Any]:
        """Run once, not for the clock: warms up, and tells peak memory and the result."""
        program = self._programs[entry]
        give_back_memory()
        before = reset_peak()
        output, seconds = timed(program)
        peak = peak_bytes() - before
        digest = program.digest(output)
        return {
            "seconds": seconds,
            "peak_bytes": peak,
            "value": digest.value,
            "gradient_norm": digest.gradient_norm,
        }

    def do_run(self, entry: str) -> dict[str, Any]:
        """Run once for the clock."""
        give_back_memory()
        return {"seconds": timed(self._programs[entry])[1]}


def timed(program: Program) -> tuple[Any, float]:
    """What a program returns, and seconds."""
    begin = time.perf_counter()
    output = program.run()
    return output, time.perf_counter() - begin


def give_back_memory() -> None:
    """Return what is free to the system: the allocator's leftovers would hide what a run needs."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_peak() -> int:
    """Forget the peak so far; bytes in use now."""
    device = _device_memory()
    if device is not None:
        return device["bytes_in_use"]
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak_bytes() -> int:
    """Largest use since `reset_peak`; on a GPU, since the process began."""
    device = _device_memory()
    return _resident("VmHWM") if device is None else device["peak_bytes_in_use"]


def _device_memory() -> dict[str, int] | None:
    """Statistics of the GPU's allocator, None on a CPU."""
    jax = sys.modules.get("jax")
    if jax is not None and jax.default_backend() != "cpu":
        return jax.devices()[0].memory_stats()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        used, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        return {"bytes_in_use": used, "peak_bytes_in_use": peak}
    return None


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def processor() -> str:
    """What the system calls its processor."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else "unknown"


def in_short(message: str) -> str:
    """A message without the places in files in it, which hide what happened, and name folders."""
    lines = (line.strip() for line in message.splitlines())
    told = (line for line in lines if not re.match(r'(File "|Traceback|-*$)', line))
    return re.sub(r"Traceback \(most recent call last\):\s*", "", " ".join(told))[:300]


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end. An exception is an answer too; the process lives on."""
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(worker, f"do_{request.pop('do')}")(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {in_short(str(error))}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Keep standard output for answers alone: libraries that print to it reach standard error instead."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
