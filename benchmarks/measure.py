"""The measuring side: workers started, told to run in turns, and what they answer written down."""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.contract import Case
from benchmarks.entries import ENTRIES
from benchmarks.presets import Plan
from benchmarks.schema import Comparison, Convergence, Measured

MOST_ROUNDS = 15
MEMORY_SHARE = 0.7
"""Of the memory that is free: what a program may plan for and still be run."""

Say = Callable[[str], None]


class WorkerError(RuntimeError):
    """A worker answered with an error, or died."""


class Worker:
    """A running `benchmarks.worker`.

    Args:
        double: run JAX in double precision.
    """

    def __init__(self, *, double: bool = False):
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
            env=environment(double=double),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._requests, self._answers = process, process.stdin, process.stdout

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            WorkerError: it could not be done.
        """
        try:
            self._requests.write(json.dumps({"do": do, **request}) + "\n")
            self._requests.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            # The kernel ends a process that asks for more memory than there is with signal 9.
            raise WorkerError(
                "out of memory (killed)" if code == -9 else f"died with code {code}: {self.tail()}"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def tail(self) -> str:
        """The last line it wrote to standard error."""
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else "nothing said"

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._log.close()


def environment(*, double: bool = False) -> dict[str, str]:
    """Environment of a worker: no cache of compiled programs (compiling is measured), no pages of hints."""
    changed = {
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "JAX_ENABLE_X64": "true" if double else "false",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Otherwise the first JAX process on a GPU takes three quarters of it and the next one starves.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    return os.environ | changed


def compare(plan: Plan, say: Say) -> Comparison:
    """Measure the entries of a plan side by side.

    Every round runs each entry once, starting with another one each time, so that whatever else the machine does
    reaches all of them alike. Compilation and first runs come before, one at a time.

    Args:
        plan: what to measure.
        say: told what is going on.
    """
    case = plan.case
    before = os.getloadavg()[0]
    found = {entry: Measured(entry=entry) for entry in plan.entries}
    with _workers(plan) as workers:
        described: dict[str, Any] = {}
        for entry, measured in found.items():
            say(f"{case.name}: building {entry}")
            with _noted(measured):
                _check(entry, case)
                described = described or workers[entry].ask("hello")
                _fill(measured, workers[entry].ask("build", entry=entry, case=list(case)))
        ready = []
        for entry, measured in found.items():
            if measured.note or not plan.timed:
                continue
            say(f"{case.name}: first run of {entry}")
            with _noted(measured):
                _fits(measured)
                seconds = _fill(measured, workers[entry].ask("first", entry=entry))["seconds"]
                if measured.gradient_norm is not None and not math.isfinite(measured.gradient_norm):
                    measured.gradient_norm = None
                    # What it does before it refuses takes time too, but not the time of a gradient.
                    measured.note = "refused: not converged after these steps"
                    continue
                ready.append((entry, seconds))
        rounds = _rounds(sum(seconds for _, seconds in ready), plan.seconds) if ready else 0
        for r in range(rounds):
            say(f"{case.name}: round {r + 1} of {rounds}")
            running = [entry for entry, _ in ready if not found[entry].note]
            for i in range(len(running)):
                measured = found[running[(i + r) % len(running)]]
                with _noted(measured):
                    measured.rounds.append(
                        workers[measured.entry].ask("run", entry=measured.entry)["seconds"]
                    )
    for measured in found.values():
        if measured.note:
            # Its rounds would no longer be those of the others.
            measured.rounds = []
    return Comparison(
        name=case.name,
        model=case.model,
        atoms=case.atoms,
        steps=case.steps,
        entries=list(found.values()),
        environment=described,
        load=(before, os.getloadavg()[0]),
    )


def converge(arguments: list[int], say: Say) -> Convergence:
    """Run `benchmarks.convergence` in a process of its own, in double precision.

    Args:
        arguments: number of atoms and longest relaxation.
        say: told what is going on.

    Raises:
        WorkerError: it failed.
    """
    say("gradients along a relaxation, in double precision")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.convergence", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        env=environment(double=True),
        check=False,
    )
    if done.returncode:
        raise WorkerError(f"benchmarks.convergence failed: {done.stderr.strip().splitlines()[-1:]}")
    return Convergence.model_validate_json(done.stdout)


@contextlib.contextmanager
def _workers(plan: Plan) -> Iterator[dict[str, Worker]]:
    """Entry -> worker: one for all, or one each where processes must be kept apart."""
    with contextlib.ExitStack() as stack:

        def start() -> Worker:
            worker = Worker()
            stack.callback(worker.close)
            return worker

        shared = None if plan.isolated else start()
        yield {entry: shared or start() for entry in plan.entries}


@contextlib.contextmanager
def _noted(measured: Measured) -> Iterator[None]:
    """Write an expected failure down instead of ending the suite."""
    try:
        yield
    except WorkerError as error:
        measured.note = str(error)


def _check(entry: str, case: Case) -> None:
    missing = ENTRIES[entry].missing()
    if missing:
        raise WorkerError(missing)
    if ENTRIES[entry].chgnet_only and not case.model.startswith("chgnet"):
        raise WorkerError("runs CHGNet only")


def _fill(measured: Measured, answer: dict[str, Any]) -> dict[str, Any]:
    for key, value in answer.items():
        if key in Measured.model_fields:
            setattr(measured, key, value)
    return answer


def _fits(measured: Measured) -> None:
    """Refuse a run that would take the machine down."""
    available = _available_bytes()
    if measured.temp_bytes and available and measured.temp_bytes > MEMORY_SHARE * available:
        raise WorkerError("not run: plans for more memory than is free")


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


def _rounds(once: float, seconds: float) -> int:
    """Rounds that fit into the time planned: at least two, so that there is a spread."""
    return max(2, min(MOST_ROUNDS, int(seconds / max(once, 1e-9))))
