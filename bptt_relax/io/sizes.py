"""Does a file hold as much as it announces? Readers reserve memory for what it announces, and hang."""

import math
import re
import struct
from pathlib import Path

from bptt_relax.outcomes import InputError

_COUNTS = {
    "vasp-out": r"(?:ions per type *=|NIONS *=|NKPTS *=|NBANDS *=)((?: *\d+)+)",
    "vasp-xml": r"<atoms>((?: *\d+)+)",
    "espresso-out": r"(?:number of atoms/cell *=|number of Kohn-Sham states *=|number of k points *=)((?: *\d+)+)",
}


def check(path: Path, kind: str, text: str, plain: Path) -> None:
    """Refuse a file that announces more atoms than it can hold, or ends within a frame.

    Args:
        path: of the file, for messages.
        kind: ASE's name of the format.
        text: contents; empty of a binary file.
        plain: where the file is, unpacked.

    Raises:
        InputError: it does.
    """
    if kind == "traj":
        _check_trajectory(path, plain)
    elif kind in ("extxyz", "xyz"):
        _check_xyz(path, text)
    elif kind == "vasp":
        # Counts stand in line 6, or in line 7 where line 6 names the elements.
        for line in text.split("\n", 7)[5:7]:
            _refuse_beyond(path, re.findall(r"(?<![\d.])\d+(?![\d.])", line), len(text))
    elif kind in _COUNTS:
        for numbers in re.findall(_COUNTS[kind], text):
            _refuse_beyond(path, numbers.split(), len(text))


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
        for columns in re.findall(r":(\d{4,})", lines[at + 1]):
            # Of "Properties": readers make room for so many numbers per atom.
            _refuse_beyond(path, [columns], len(lines[at + 2]) if count else 0)
        at += 2 + count
        while at < end and lines[at].startswith("VEC"):
            at += 1
        frame += 1


def _check_trajectory(path: Path, plain: Path) -> None:
    """Follow the offsets of ASE's binary format: header, table of offsets, and JSON with shapes of arrays."""
    size = plain.stat().st_size
    with plain.open("rb") as file:

        def integers(at: int, count: int) -> list[int]:
            if not (0 <= at <= size and 0 <= 8 * count <= size - at):
                raise InputError(
                    f"cannot read {path}: the ASE trajectory is damaged or cut off ({size} bytes)"
                )
            file.seek(at)
            return list(struct.unpack(f"<{count}q", file.read(8 * count)))

        _version, count, table = integers(24, 3)
        for offset in integers(table, count):
            (length,) = integers(offset, 1)
            integers(offset + 8, length // 8)
            file.seek(offset + 8)
            described = file.read(length).decode(errors="replace")
            for shape in re.findall(r'"ndarray": *\[ *\[([-\d, ]*)\]', described):
                _refuse_beyond(path, [str(math.prod(int(n[:18]) for n in re.findall(r"\d+", shape)))], size)


def _refuse_beyond(path: Path, counts: list[str], size: int) -> None:
    # Digits beyond counting are cut off, and too many all the same.
    announced = sum(int(n[:18]) for n in counts)
    if announced > size:
        raise InputError(
            f"cannot read {path}: it announces {announced} atoms or other entries, more than {size} bytes can hold"
        )
