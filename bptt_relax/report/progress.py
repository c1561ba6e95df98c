"""Progress for people: a live line on a terminal, sparse plain lines everywhere else."""

import math
import os
import sys
import time
from collections import Counter
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bptt_relax.outcomes import printable
from bptt_relax.report.estimate import Estimate
from bptt_relax.report.names import readable, to_ascii

PLAIN_INTERVAL = 5.0
"""Least time between two plain lines, s; in long runs a twentieth of the elapsed time, at most a minute."""

_LABELS = {
    "epoch": "epoch",
    "loss": "loss",
    "validation": "validation",
    "best": "best",
    "delta_q": "Delta Q",
}
"""What is shown first, in this order; anything else follows under its own name, the structure last."""


class Reporter:
    """Shows where a run stands: which phase, how far, the latest numbers, the time left in the phase.

    Use it as a context manager; it also takes the events of the training loop. Text that comes from outside
    (names of structures) is never read as markup, nor obeyed by the terminal.

    Args:
        console: where to write; standard error when not given, so that standard output stays for results.
        plain: lines instead of a live display; by default where the console is no terminal, and in CI.
    """

    def __init__(self, console: Console | None = None, plain: bool | None = None):
        self._console = console or Console(stderr=True)
        ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
        dumb = not self._console.is_terminal or self._console.is_dumb_terminal
        self._plain = (dumb or ci) if plain is None else plain
        self._clock = time.monotonic
        self._start = self._clock()
        self._printed = -math.inf
        self._live: Live | None = None
        self._title: str | None = None
        self._unit, self._score = "steps", ""
        self._estimate = Estimate(None, now=self._start)
        self._shown: dict[str, Any] = {}
        self._skips: Counter[str] = Counter()

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finish("done" if kind is None else "stopped")

    def begin(
        self,
        title: str,
        total: int | None = None,
        *,
        seconds: float = math.inf,
        unit: str = "steps",
        score: str = "validation Delta Q",
    ) -> None:
        """Start a phase; one that is still under way ends.

        Args:
            title: what is done, for example ``BPTT seed 0: training``.
            total: steps, or None where unknown.
            seconds: the phase ends after this much training time even if steps are left.
            unit: what is counted, in the plural.
            score: what is validated.
        """
        self._finish("done")
        self._title, self._unit, self._score = printable(title), unit, score
        self._estimate = Estimate(total, seconds, now=self._clock())
        self._shown = {}
        self._skips.clear()
        if self._plain:
            self._line(f"{self._title}" + (f" ({total} {unit})" if total else ""))
            return
        self._live = live = Live(
            get_renderable=self._render,
            console=self._console,
            # The display must not take a core from the computation.
            refresh_per_second=4,
            transient=True,
            # What is printed meanwhile appears above the display, but a pipe gets it as it is.
            redirect_stdout=sys.stdout.isatty(),
        )
        live.start()

    def advance(self, n: int = 1, **shown: Any) -> None:
        """Note ``n`` more steps and the numbers to show: ``loss``, ``validation``, ``structure``, or any other."""
        self._advance(n, shown)

    def event(self, event: dict[str, Any]) -> None:
        """Take an event of the training loop; those of a kind that is not known are ignored."""
        kind = event.get("event")
        if kind == "step":
            # A stage that is resumed begins in the middle: its first event says how many steps were done before.
            done_before = max(0, int(event.get("step", 1)) - 1) if self._estimate.done == 0 else 0
            shown = {key: event[key] for key in ("loss", "structure", "epoch") if key in event}
            self._advance(1 + done_before, shown, event.get("seconds"))
        elif kind == "epoch":
            self._take_validation(event.get("validation"))
            if self._plain:
                self._line(self._epoch_line(event))
        elif kind == "skip":
            name = str(event.get("structure", "?"))
            self._skips[name] += 1
            if self._skips[name] == 1:
                self.warn(f"{name} left out of an update: {event.get('reason', 'not usable')}")
        elif kind == "out_of_memory":
            self.warn(
                f"memory: {event.get('reason', 'not enough')}; instead of {event.get('tried', 'this gradient')} "
                f"from here on {event.get('instead', 'a leaner one')}"
            )
        elif kind == "damaged":
            self.warn(event["reason"])
        elif kind == "returned":
            self.warn(f"{event.get('stage', 'training')}: {event['reason']}")
        elif kind == "not_saved":
            self.warn(
                f"NOT SAVED: {event['reason']}. Training goes on; make room, or all since the last one is lost"
            )
        elif kind == "stopped":
            self.warn(
                f"{event.get('stage', 'training')} stopped early: {event.get('reason', 'no reason given')}"
            )

    def note(self, text: str) -> None:
        """Say something that should stay on the screen."""
        self._line(text)

    def warn(self, text: str) -> None:
        """Say something that should not be missed."""
        self._line(f"warning: {text}", "yellow")

    def end(self) -> None:
        """End the phase; nothing happens where none is under way."""
        self._finish("done")

    def _advance(self, n: int, shown: dict[str, Any], trained: float | None = None) -> None:
        self._shown.update(shown)
        now = self._clock()
        self._estimate.advance(n, now=now, trained=trained)
        patience = min(60.0, max(PLAIN_INTERVAL, (now - self._start) / 20))
        if self._plain and self._title is not None and now - self._printed >= patience:
            self._line("  ".join(part for part in (self._count(), self._numbers(), self._left()) if part))

    def _take_validation(self, value: Any) -> None:
        self._shown["validation"] = value
        if value is not None and value < self._shown.get("best", math.inf):
            self._shown["best"] = value

    def _finish(self, how: str) -> None:
        if self._title is None:
            return
        if self._live is not None:
            self._live.stop()
            self._live = None
        parts = [f"{self._title}: {how}", self._count(), duration(self._estimate.elapsed(self._clock()))]
        if "best" in self._shown:
            parts.append(f"best {self._score} {number(self._shown['best'])}")
        if self._skips:
            parts.append("left out " + ", ".join(f"{name} x{n}" for name, n in sorted(self._skips.items())))
        self._title = None
        self._line("  ".join(part for part in parts if part), "dim" if how == "done" else "yellow")

    def _line(self, text: str, style: str = "") -> None:
        now, text = self._clock(), printable(text)
        if self._plain:
            self._printed = now
            text = f"[{duration(now - self._start):>7}] {text}"
        if self._console.options.ascii_only:
            text = to_ascii(text)
        # soft_wrap: a log is read by tools too, and a line broken at 80 columns can't be searched.
        self._console.print(Text(text, style), soft_wrap=True, highlight=False)

    def _epoch_line(self, event: dict[str, Any]) -> str:
        text = f"epoch {event['epoch']}: " if event.get("epoch") else "start: "
        if event.get("loss") is not None:
            text += f"loss {number(event['loss'])}  "
        text += f"{self._score} {number(event.get('validation'))}"
        text += "  best so far" if event.get("best") and event.get("epoch") else ""
        return "  ".join(part for part in (text, self._left()) if part)

    def _count(self) -> str:
        done, total = self._estimate.done, self._estimate.total
        if total:
            return f"{done}/{total}"
        return f"{done} {self._unit}" if done else ""

    def _left(self) -> str:
        left = self._estimate.left(self._clock())
        return "" if left is None else f"about {duration(left)} left"

    def _numbers(self) -> str:
        keys = [key for key in _LABELS if key in self._shown]
        keys += [key for key in self._shown if key not in (*_LABELS, "structure")]
        names = _LABELS | {"validation": self._score}
        parts = [f"{names.get(key, key)} {number(self._shown[key])}" for key in keys]
        if "structure" in self._shown:
            parts.append(readable(str(self._shown["structure"])))
        return printable("  ".join(parts))

    def _render(self) -> RenderableType:
        """The live display: title, bar, count and times on one line, the latest numbers below."""
        estimate, now = self._estimate, self._clock()
        ascii_only = self._console.options.ascii_only
        bar = ProgressBar(total=1.0, completed=estimate.share, width=24, pulse=not estimate.total)
        times = f"{duration(estimate.elapsed(now))}  {self._left() or 'time left not known yet'}"
        line = Table.grid(padding=(0, 2))
        line.add_row(Text(self._title or "", "bold"), bar, Text(self._count()), Text(times, "dim"))
        numbers = self._numbers()
        below = Text(
            "  " + (to_ascii(numbers) if ascii_only else numbers), "cyan", no_wrap=True, overflow="ellipsis"
        )
        return Group(line, below)


def duration(seconds: float) -> str:
    """``12 s`` below a minute, then ``3:05``, then ``2:03:05``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def number(value: Any) -> str:
    """A number in four significant digits, an integer as it is, a dash where there is none."""
    if value is None or isinstance(value, str):
        return value or "-"
    if isinstance(value, int):
        return str(value)
    value = float(value)
    return f"{value:.4g}" if math.isfinite(value) else "not finite"
