"""What is wrong with an input, collected so that everything is said at once."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with one structure, or worth knowing about it.

    Attributes:
        source: file or folder.
        name: of the relaxation; empty when the file itself is at fault.
        text: what is wrong, with atom and value.
        fix: what to do about it.
        fatal: whether the relaxation can't be used; False for a note.
    """

    source: str
    name: str
    text: str
    fix: str = ""
    fatal: bool = True

    def __str__(self) -> str:
        """One line for a message."""
        where = f"{self.source}: {self.name}" if self.name and self.name not in self.source else self.source
        return f"{where}: {self.text}" + (f" -> {self.fix}" if self.fix else "")


def describe(problems: Sequence[Problem], headline: str) -> str:
    """All problems as one message, one line each.

    Args:
        problems: in the order they were found.
        headline: what can't be done because of them.
    """
    return "\n".join(
        [f"{headline} ({len(problems)} problem{'s' * (len(problems) != 1)}):"] + [f"  {p}" for p in problems]
    )


def safe_name(text: str) -> str:
    """A name that is safe in a path, a table, a terminal and a page.

    Args:
        text: whatever a file or a folder is called.
    """
    name = re.sub(r"[^\w.+-]+", "_", text.strip(), flags=re.ASCII).strip("._-+")[:120]
    return name or "unnamed"


def write_rejected(path: Path | str, problems: Sequence[Problem]) -> None:
    """Write what was left out, one line per reason.

    Args:
        path: of the comma-separated file, conventionally ``rejected.csv``.
        problems: the fatal ones.
    """
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "relaxation", "reason", "fix"])
        for problem in problems:
            # A spreadsheet runs cells that begin like a formula.
            row = (problem.source, problem.name, problem.text, problem.fix)
            writer.writerow([f"'{cell}" if cell[:1] in "=+-@\t\r" and cell else cell for cell in row])
