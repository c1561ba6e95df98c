"""The package's own ways to differentiate, by name."""

import functools

from benchmarks.contract import Case, Entry, Kind, Program

WINDOW = 8
"""Steps that the truncated and the guided strategies differentiate."""


def _build(case: Case, strategy: str, kind: Kind) -> Program:
    from benchmarks import programs
    from bptt_relax import adjoints

    made = {
        "plain": adjoints.Full,
        "step": adjoints.Checkpointed,
        "force": lambda: adjoints.Checkpointed("force"),
        "segments": lambda: adjoints.Checkpointed("segments"),
        "first": lambda: adjoints.Truncated(first=WINDOW),
        "last": lambda: adjoints.Truncated(last=WINDOW),
        "guided": lambda: adjoints.Guided(WINDOW),
        "implicit": adjoints.Implicit,
        "implicit-loose": lambda: adjoints.Implicit(tolerance=1e-3),
        "frozen": adjoints.FrozenGeometry,
    }
    return programs.compile_program(case, made[strategy](), kind)


def _entry(strategy: str, label: str, *, kind: Kind = "gradient", exact: bool = True) -> Entry:
    return Entry(label, kind, functools.partial(_build, strategy=strategy, kind=kind), exact=exact)


ENTRIES: dict[str, Entry] = {
    "forward": _entry("plain", "forward", kind="forward"),
    "full": _entry("plain", "Full"),
    "step": _entry("step", "Checkpointed: step"),
    "force": _entry("force", "Checkpointed: force"),
    "segments": _entry("segments", "Checkpointed: segments"),
    "first": _entry("first", f"Truncated: first {WINDOW}", exact=False),
    "last": _entry("last", f"Truncated: last {WINDOW}", exact=False),
    "guided": _entry("guided", f"Guided: {WINDOW}", exact=False),
    "implicit": _entry("implicit", "Implicit", exact=False),
    "implicit-loose": _entry("implicit-loose", "Implicit to 1e-3", exact=False),
    "frozen": _entry("frozen", "FrozenGeometry", exact=False),
}
