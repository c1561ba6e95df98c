"""Does a file hold as much as it announces? Readers reserve memory for what it announces, and hang."""

import re
from pathlib import Path

from bptt_relax.outcomes import InputError

_COUNTS = {
    "vasp-out": r"(?:ions per type *=|NIONS *=|NKPTS *=|NBANDS *=)((?: *\d+)+)",
    "vasp-xml": r"<atoms>((?: *\d+)+)",
    "espresso-out": r"(?:number of atoms/cell *=|number of Kohn-Sham states *=|number of k points *=)((?: *\d+)+)",
}


def check(path: Path, kind: str, text: str) -> None:
    """Refuse a file that announces more atoms than it can hold, or ends within a frame.

    Args:
        path: of the file, for messages.
        kind: ASE's name of the format; binary ones are not looked at.
        text: contents.

    Raises:
        InputError: it does.
    """
    if kind in ("extxyz", "xyz"):
        _check_xyz(path, text)
    elif kind == "vasp":
        # Counts stand in line 6, or in line 7 where line 6 names the elements.
        for line in text.split("\n", 7)[5:7]:
            if re.fullmatch(r"[\s\d]+", line):
                _refuse_beyond(path, [int(n) for n in line.split()[:100] if len(n) < 4000], len(text))
    elif kind in _COUNTS:
        for numbers in re.findall(_COUNTS[kind], text):
            _refuse_beyond(path, [int(n) for n in numbers.split() if len(n) < 4000], len(text))


def _check_xyz(path: Path, text: str) -> None:
    lines = text.split("\n")
    end = len(lines) - 1 if not lines[-1].strip() else len(lines)
    at = frame = 0
    while at < end and lines[at].strip():
        where = f"frame {frame} (line {at + 1})"
        try:
            count = int(lines[at])
        except ValueError:
            shown = lines[at].strip()[:40]
            raise InputError(
                f"cannot read {path}: {where} should begin with a number of atoms, not with {shown!r}; is there a line "
                "too many or too few before it?"
            ) from None
        if count < 0 or at + 2 + count > end:
            raise InputError(
                f"cannot read {path}: {where} announces {count} atoms, but only {max(0, end - at - 2)} lines follow; "
                "was its writing cut off?"
            )
        at += 2 + count
        while at < end and lines[at].startswith("VEC"):
            at += 1
        frame += 1


def _refuse_beyond(path: Path, counts: list[int], size: int) -> None:
    if sum(counts) > size:
        raise InputError(
            f"cannot read {path}: it announces {sum(counts)} atoms, bands or k points, more than {size} bytes can hold"
        )
