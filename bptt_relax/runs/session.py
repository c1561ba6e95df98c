"""One run from start or resumption to end or interruption: its folder, progress, metrics, and whether to stop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bptt_relax import distributed, processes
from bptt_relax.outcomes import Interrupted, StorageError, why_unwritable
from bptt_relax.report.environment import environment, peak_rss_mb
from bptt_relax.report.metrics import MetricsFile
from bptt_relax.report.progress import Reporter
from bptt_relax.runs import folder as folders

Result = TypeVar("Result")
TIMING = "timing.json"

Found = dict[str, Any]
"""What a run found, as results.json holds it."""


class Finished(NamedTuple):
    """A run that came to its end.

    Attributes:
        folder: with everything it wrote.
        results: what results.json holds.
    """

    folder: Path
    results: Found


@dataclass
class Session:
    """What every part of a run needs.

    Attributes:
        folder: where everything is written.
        reporter: shows progress.
        metrics: takes every event.
        stop: asked whether to stop.
        timing: seconds by phase, summed over interruptions.
    """

    folder: Path
    reporter: Reporter
    metrics: MetricsFile
    stop: processes.StopSignal
    timing: dict[str, float] = field(default_factory=dict)
    _told_of_metrics: bool = False

    def event(self, event: dict) -> None:
        """Write an event of the training loop down and show it."""
        if not (self.metrics.write(event) or self._told_of_metrics):
            self._told_of_metrics = True
            self.reporter.warn(f"no room for {self.metrics.path}: events are lost until there is")
        self.reporter.event(event)

    def check_stop(self, doing: str) -> None:
        """Leave where that was asked for.

        Raises:
            Interrupted: it was.
        """
        if self.stop():
            raise Interrupted(doing)

    def timed(self, phase: str, work: Callable[[], Result]) -> Result:
        """Do something that counts as this phase."""
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.reporter.end()
            self.timing[phase] = self.timing.get(phase, 0.0) + time.perf_counter() - start

    def once(
        self, path: Path, make: Callable[[], Any], convert: Callable[[Any], Any] = lambda value: value
    ) -> Any:
        """Something as JSON that an interrupted run does not make again: what is there is read back.

        Every process makes it; that of the first counts.

        Args:
            path: of the file.
            make: plain JSON.
            convert: makes of it what is wanted.

        Raises:
            InputError: what is there is damaged.
        """
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = make()
            processes.write_json(path, distributed.processes().of_first(lambda: made))
        return processes.read_json(path, convert)

    def write_results(self, experiment: str, preset: str | None, config: dict, found: Found) -> Found:
        """Write results.json.

        Args:
            experiment: what was run.
            preset: where its settings started from.
            config: everything that decided the outcome.
            found: what came of it.

        Returns:
            what the file holds.
        """
        results = {
            "schema": 1,
            "experiment": experiment,
            "preset": preset,
            "config": config,
            **found,
            "timing_s": {phase: round(seconds, 1) for phase, seconds in self.timing.items()},
            "peak_rss_mb": round(peak_rss_mb()),
            "environment": environment(),
        }
        processes.write_json(self.folder / folders.RESULTS, results)
        return results


@contextmanager
def opened(folder: Path, config: dict, resume: bool) -> Iterator[Session]:
    """Claim the folder of a run and hold what the run needs.

    Args:
        folder: from `folder.choose`.
        config: everything that decides the outcome.
        resume: continue what is there.

    Raises:
        InputError: the folder can't be written or is in use, or the configuration is not that of the start.
        Interrupted: the run was; says how to go on.
        StorageError: nothing more could be written.
    """
    try:
        with _opened(folder, config, resume) as session:
            yield session
    except Exception as error:
        if (why := why_unwritable(error)) is None:
            raise
        raise StorageError(
            f"{why}: nothing more could be written to {folder}. What was written before is kept; make room, then go "
            "on with the same command and --resume"
        ) from error


@contextmanager
def _opened(folder: Path, config: dict, resume: bool) -> Iterator[Session]:
    with (
        folders.locked(folder),
        processes.StopSignal().listening() as stop,
        MetricsFile(folder / folders.METRICS) as metrics,
        Reporter() as reporter,
    ):
        folders.record_config(folder, config, resume)
        folders.check_shared(folder)
        path = folder / TIMING
        timing = processes.read_json(path, _seconds) if path.is_file() else {}
        session = Session(folder, reporter, metrics, stop, timing)
        try:
            yield session
        except Interrupted as interruption:
            processes.write_json(path, session.timing)
            raise Interrupted(
                f"interrupted; everything so far is in {folder}. Go on with the same command and --resume",
                stop.number or interruption.signal,
            ) from interruption


def _seconds(timing: Any) -> dict[str, float]:
    return {phase: float(seconds) for phase, seconds in timing.items()}
