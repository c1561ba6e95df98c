"""The file of relaxed structures: written one by one as they finish, readable at any time, never written over."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bptt_relax.io import Problem
from bptt_relax.outcomes import InputError
from bptt_relax.processes import difference, locked, mapping, read_json, write_json


class Output:
    """Relaxed structures in an extended XYZ file, in the order in which they finish until all have.

    Beside the file lies, while it is incomplete, what it was started with (``.unfinished``).

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._started = path.with_name(path.name + ".unfinished")
        self._lock = path.with_name(path.name + ".lock")
        self._frames: dict[str, str] = {}

    def problems(self, resume: bool) -> Iterator[Problem]:
        """Why the file can't be written."""
        if self.path.suffix not in (".extxyz", ".xyz"):
            yield _problem(self.path, "the result is extended XYZ", "give it a name that ends in .extxyz")
        elif self.path.is_dir():
            yield _problem(self.path, "is a folder", "name a file that does not exist yet")
        elif self._started.exists() and not resume:
            yield _problem(self.path, "was interrupted", "go on with --resume, or name another file")
        elif self.path.exists() and not resume:
            yield _problem(self.path, "exists and is never written over", "name another file")
        elif resume and not self._started.exists():
            what = "is complete" if self.path.exists() else "was never started"
            yield _problem(self.path, f"{what}: nothing to resume", "leave out --resume, or check the name")

    @contextmanager
    def opened(self, start: dict, resume: bool) -> Iterator["Output"]:
        """Hold the file for writing, with what an interrupted run wrote.

        Args:
            start: settings and structures, as JSON.
            resume: whether there is such a run.

        Raises:
            InputError: it was started with other settings or structures, or another process writes it.
        """
        with locked(self._lock, str(self.path)):
            if resume:
                fix = f"move it and {self.path} away, and start without --resume"
                changed = sorted(difference(read_json(self._started, mapping, fix=fix), start))
                if changed:
                    raise InputError(
                        f"{self.path} was started otherwise ({'; '.join(changed)}): resume it as it was started, or "
                        "name another --out"
                    )
                self._frames = dict(self._recover())
            else:
                write_json(self._started, start)
            with self.path.open("a", encoding="utf-8") as self._file:
                yield self

    @property
    def names(self) -> set[str]:
        """Of the structures that are in the file."""
        return set(self._frames)

    def endings(self) -> dict[str, str]:
        """How each structure of the file ended."""
        found = {
            name: re.search(r'outcome=(?:"([^"]*)"|(\S+))', frame) for name, frame in self._frames.items()
        }
        return {name: match[1] or match[2] if match else "unknown" for name, match in found.items()}

    def append(self, name: str, frame: str) -> None:
        """Write one structure.

        Args:
            name: of it.
            frame: extended XYZ.
        """
        self._file.write(frame)
        self._file.flush()
        self._frames[name] = frame

    def complete(self, names: Sequence[str]) -> None:
        """Put the structures into this order, and call the file complete."""
        if list(self._frames) != list(names):
            temporary = self.path.with_name(self.path.name + ".part")
            temporary.write_text("".join(self._frames[name] for name in names), encoding="utf-8")
            temporary.replace(self.path)
        self._started.unlink()

    def _recover(self) -> Iterator[tuple[str, str]]:
        """Complete frames of the file by name; a last one that was cut off is removed."""
        try:
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.path} is damaged ({error}): move it and {self._started} away, and start without --resume"
            ) from error
        lines = text.splitlines(keepends=True)
        begin = 0
        while begin < len(lines):
            end = begin + 2 + int(lines[begin]) if re.fullmatch(r"\d+\n", lines[begin]) else len(lines) + 1
            if end > len(lines) or not lines[end - 1].endswith("\n"):
                with self.path.open("r+b") as file:
                    file.truncate(len("".join(lines[:begin]).encode()))
                return
            name = re.search(r"(?:^|\s)name=(\S+)", lines[begin + 1])
            if name is None:
                raise InputError(
                    f"{self.path}, line {begin + 2}: a structure without name; was it changed by hand?"
                )
            yield name[1], "".join(lines[begin:end])
            begin = end


def _problem(path: Path, text: str, fix: str) -> Problem:
    return Problem(f"--out {path}", "", text, fix)
