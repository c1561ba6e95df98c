"""Plant each fault in a copy of the package and see whether the tests that are named for it fail.

    python -m tests.mutations                # all of them, an hour or more
    python -m tests.mutations losses _step   # those whose file holds one of these words

Ends with 1 where a fault survived.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutations.faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]


def killed(fault: Fault, copy: Path) -> bool:
    """Whether its tests fail, in a copy of the repository that is left as it was found."""
    file = copy / "bptt_relax" / fault.file
    text = file.read_text()
    if text.count(fault.right) != 1:
        raise SystemExit(f"{fault.file} holds {text.count(fault.right)} times, not once: {fault.right}")
    file.write_text(text.replace(fault.right, fault.wrong))
    known = [copy / "tests" / word for word in fault.tests]
    tests = [str(path) if path.exists() else word for path, word in zip(known, fault.tests, strict=True)]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    try:
        finished = subprocess.run(
            command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True
        )
    finally:
        file.write_text(text)
    if finished.returncode not in (0, 1):
        raise SystemExit(
            f"{fault.file}: pytest could not run:\n{finished.stdout[-2000:]}{finished.stderr[-2000:]}"
        )
    return finished.returncode == 1


def main(words: list[str]) -> int:
    """Number of survivors, at most 1."""
    chosen = [fault for fault in FAULTS if not words or any(word in fault.file for word in words)]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs"))
        for fault in chosen:
            start = time.perf_counter()
            dead = killed(fault, copy)
            survivors += [] if dead else [fault]
            print(
                f"{'killed  ' if dead else 'SURVIVED'} {time.perf_counter() - start:4.0f} s  {fault.file}: "
                f"{fault.right.strip()} -> {fault.wrong.strip()}",
                flush=True,
            )
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} killed")
    return min(1, len(survivors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
