import io

import pytest
from rich.console import Console

from bptt_relax.report import Reporter
from bptt_relax.report.estimate import Estimate
from bptt_relax.report.progress import duration, number


class Clock:
    """A clock that only moves when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def plain():
    """A reporter writing lines into a buffer, and its clock."""
    console = Console(file=io.StringIO(), width=40)
    reporter = Reporter(console, plain=True)
    reporter._clock = Clock()
    reporter._start = 0.0
    return reporter, console.file, reporter._clock


def test_a_pipe_gets_lines_and_a_terminal_a_display():
    assert Reporter(Console(file=io.StringIO()))._plain
    assert not Reporter(Console(file=io.StringIO(), force_terminal=True), plain=False)._plain


def test_continuous_integration_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setenv("CI", "false")
    assert not Reporter(console)._plain
    monkeypatch.setenv("CI", "true")
    assert Reporter(console)._plain


def test_lines_are_sparse_and_carry_elapsed_time(plain):
    reporter, file, clock = plain
    with reporter:
        reporter.begin("BPTT seed 0: training", 100)
        for _ in range(100):
            clock.now += 0.25
            reporter.advance(loss=0.5, structure="p32_pairV_Ge_s0")
    lines = file.getvalue().splitlines()
    assert len(lines) == 2 + 5
    assert lines[1].startswith("[    5 s] 20/100")
    assert "loss 0.5  V–Ge pair s0  about 20 s left" in lines[1]
    assert lines[-1].startswith("[   25 s] BPTT seed 0: training: done  100/100  25 s")


def test_a_long_line_is_not_broken(plain):
    reporter, file, _ = plain
    reporter.note("word " * 40)
    assert len(file.getvalue().splitlines()) == 1


def test_every_epoch_has_its_line(plain):
    reporter, file, clock = plain
    reporter.begin("training", 4)
    reporter.event({"event": "epoch", "stage": "bptt", "epoch": 0, "validation": 2.0, "best": True})
    for epoch in (1, 2):
        clock.now += 0.1
        reporter.event(
            {"event": "step", "stage": "bptt", "epoch": epoch, "step": epoch, "structure": "a", "loss": 1.0}
        )
        reporter.event(
            {
                "event": "epoch",
                "stage": "bptt",
                "epoch": epoch,
                "loss": 1.0,
                "validation": 1.0 + epoch,
                "best": epoch == 1,
            }
        )
    reporter.end()
    _, start, first, second, done = file.getvalue().splitlines()
    assert start.endswith("start: validation Delta Q 2")
    assert "epoch 1: loss 1  validation Delta Q 2  best so far" in first
    assert "best so far" not in second
    assert "best validation Delta Q 2" in done


def test_a_skip_is_told_once_and_counted(plain):
    reporter, file, _ = plain
    reporter.begin("training", 9)
    for _ in range(3):
        reporter.event({"event": "skip", "stage": "bptt", "structure": "[bold]x", "reason": "not finite"})
    reporter.event({"event": "stopped", "stage": "bptt", "reason": "8 in a row"})
    reporter.end()
    text = file.getvalue()
    assert text.count("warning: [bold]x left out of an update: not finite") == 1
    assert "left out [bold]x x3" in text
    assert "bptt stopped early: 8 in a row" in text


def test_an_unknown_event_is_ignored(plain):
    reporter, file, _ = plain
    reporter.event({"event": "structure", "delta_q": 1.0})
    assert file.getvalue() == ""


def test_an_exception_leaves_no_phase_behind(plain):
    reporter, file, _ = plain

    def interrupted():
        with reporter:
            reporter.begin("training", 5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "training: stopped" in file.getvalue()
    reporter.end()
    assert file.getvalue().count("stopped") == 1


def test_a_resumed_stage_begins_where_it_was(plain):
    reporter, _, _ = plain
    reporter.begin("training", 10)
    reporter.event(
        {"event": "step", "stage": "bptt", "step": 7, "structure": "a", "loss": 1.0, "seconds": 3.0}
    )
    assert reporter._count() == "7/10"
    assert reporter._left() == ""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_the_display_shows_phase_numbers_and_names_as_they_are(encoding):
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding), force_terminal=True, width=100, color_system=None)
    with Reporter(console, plain=False) as reporter:
        reporter.begin("BPTT seed 0: training", 12)
        for _ in range(2):
            reporter.advance(loss=0.25, structure="[red]x[/red]")
        reporter.advance(structure="p32_pairV_Ge_s0")
        shown = "".join(segment.text for segment in console.render(reporter._render()))
        assert "BPTT seed 0: training" in shown
        assert "3/12" in shown
        assert "loss 0.25" in shown
        assert ("V–Ge pair s0" if encoding == "utf-8" else "V-Ge pair s0") in shown
        reporter.note("[bold] is a name")
    console.file.flush()
    assert "[bold] is a name" in raw.getvalue().decode(encoding)


def test_time_left_leaves_out_the_first_step_which_compiles():
    estimate = Estimate(11, now=0.0)
    estimate.advance(1, now=60.0)
    assert estimate.left(60.0) is None
    for step in range(1, 6):
        estimate.advance(1, now=60.0 + step)
    assert estimate.left(65.0) == pytest.approx(5.0)
    assert estimate.left(65.5) == pytest.approx(4.5)
    assert estimate.left(99.0) == 0.0


def test_time_left_knows_the_budget():
    estimate = Estimate(1000, seconds=10.0, now=0.0)
    # Half of the time goes into validation, which the budget does not count.
    for step in range(6):
        estimate.advance(1, now=2.0 * step, trained=1.0 * step)
    assert estimate.left(10.0) == pytest.approx(10.0)
    assert Estimate(None, now=0.0).left(5.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1:00"), (185, "3:05"), (7385, "2:03:05")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (3, "3"), (0.123456, "0.1235"), (float("nan"), "not finite")]
)
def test_number(value, text):
    assert number(value) == text
