"""What is wrong with an input, collected so that everything is said at once."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bptt_relax.io.options import Spelling, in_python, spell
from bptt_relax.outcomes import InputError, printable

LISTED = 3
"""So many structures of which the same is to be said are named; the others are counted."""


class Problem(NamedTuple):
    """One thing that is wrong with one structure, or worth knowing about it.

    Attributes:
        source: file or folder.
        name: of the relaxation; empty when the file itself is at fault.
        text: what is wrong, with atom and value.
        fix: what to do about it; options as `options.use` writes them.
        fatal: whether the relaxation can't be used; False for a note.
    """

    source: str
    name: str
    text: str
    fix: str = ""
    fatal: bool = True

    @property
    def where(self) -> str:
        """File and structure."""
        return f"{self.source}: {self.name}" if self.name and self.name not in self.source else self.source

    def written(self, spelling: Spelling) -> str:
        """One line for a message.

        Args:
            spelling: of options.
        """
        return _line(f"{self.where}: {_what(self, spelling)}")

    def __str__(self) -> str:
        """One line for a message, for who works in Python."""
        return self.written(in_python)


def describe(problems: Sequence[Problem], headline: str, spelling: Spelling = in_python) -> str:
    """All problems as one message, one line each.

    Args:
        problems: in the order they were found.
        headline: what can't be done because of them.
        spelling: of options.
    """
    return "\n".join(
        [f"{headline} ({len(problems)} problem{'s' * (len(problems) != 1)}):"]
        + [f"  {p.written(spelling)}" for p in problems]
    )


def summarize(problems: Iterable[Problem], spelling: Spelling = in_python) -> list[str]:
    """One line for everything there is to say; what is the same for many structures is said once, naming the first.

    Args:
        problems: in the order they were found.
        spelling: of options.
    """
    alike: dict[str, list[Problem]] = {}
    for problem in problems:
        alike.setdefault(_what(problem, spelling), []).append(problem)
    lines = []
    for what, members in alike.items():
        where = list(dict.fromkeys(problem.where for problem in members))
        if len(where) <= LISTED:
            lines += [_line(f"{one}: {what}") for one in where]
        else:
            others = len(where) - LISTED
            lines.append(_line(f"{', '.join(where[:LISTED])} and {others} other{'s' * (others > 1)}: {what}"))
    return lines


def safe_name(text: str) -> str:
    """A name that is safe in a path, a table, a terminal and a page.

    Args:
        text: whatever a file or a folder is called.
    """
    name = re.sub(r"[^\w.+-]+", "_", text.strip(), flags=re.ASCII).strip("._-+")[:120]
    return name or "unnamed"


def refuse_existing(path: Path | str) -> None:
    """Refuse to write over anything.

    Raises:
        InputError: the file exists.
    """
    # A link to nowhere is somebody's too.
    if Path(path).exists() or Path(path).is_symlink():
        raise InputError(f"{path} exists, and nothing is written over: name another file")


def write_rejected(path: Path | str, problems: Sequence[Problem], spelling: Spelling = in_python) -> None:
    """Write what was left out, one line per reason.

    Args:
        path: of the comma-separated file, conventionally ``rejected.csv``.
        problems: the fatal ones.
        spelling: of options.

    Raises:
        InputError: the file exists, or can't be written.
    """
    refuse_existing(path)
    try:
        with Path(path).open("x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["source", "relaxation", "reason", "fix"])
            for problem in problems:
                row = (problem.source, problem.name, problem.text, spell(problem.fix, spelling))
                writer.writerow([_cell(text) for text in row])
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _what(problem: Problem, spelling: Spelling) -> str:
    return problem.text + (f" -> {spell(problem.fix, spelling)}" if problem.fix else "")


def _line(text: str) -> str:
    return printable(" ".join(text.splitlines()))


def _cell(text: str) -> str:
    """A spreadsheet runs cells that begin like a formula; a terminal that shows the file obeys escape sequences."""
    return f"'{_line(text)}" if text[:1] and text[:1] in "=+-@\t\r" else _line(text)
