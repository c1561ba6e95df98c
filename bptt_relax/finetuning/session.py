"""What every part of a run needs: where it writes, how it shows progress, whether to stop."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bptt_relax import processes
from bptt_relax.finetuning import workspace
from bptt_relax.report.metrics import MetricsFile
from bptt_relax.report.progress import Reporter

Result = TypeVar("Result")
TIMING = "timing.json"


@dataclass
class Session:
    """One run, from start or resumption to end or interruption.

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

    def event(self, event: dict) -> None:
        """Write an event of the training loop down and show it."""
        self.metrics.write(event)
        self.reporter.event(event)

    def timed(self, phase: str, work: Callable[[], Result]) -> Result:
        """Do something that counts as this phase."""
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.reporter.end()
            self.timing[phase] = self.timing.get(phase, 0.0) + time.perf_counter() - start

    def save_timing(self) -> None:
        """Keep the times for the run that resumes this one."""
        processes.write_json(self.folder / TIMING, self.timing)


@contextmanager
def opened(folder: Path, config: dict, resume: bool) -> Iterator[Session]:
    """Claim the folder of a run and hold what the run needs.

    Args:
        folder: from `workspace.choose_folder`.
        config: everything that decides the outcome.
        resume: continue what is there.

    Raises:
        InputError: the folder can't be written or is in use, or the configuration is not that of the start.
    """
    with (
        workspace.locked(folder),
        processes.StopSignal().listening() as stop,
        MetricsFile(folder / workspace.METRICS) as metrics,
        Reporter() as reporter,
    ):
        workspace.record_config(folder, config, resume)
        path = folder / TIMING
        yield Session(folder, reporter, metrics, stop, json.loads(path.read_text()) if path.is_file() else {})
