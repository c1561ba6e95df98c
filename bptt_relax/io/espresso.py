"""What pw.x of Quantum ESPRESSO says about the course of a relaxation, beyond structures and labels."""

import re

import numpy as np

from bptt_relax.io.course import Course

_POSITIONS = re.compile(
    r"^ATOMIC_POSITIONS[^\n]*\n((?:[ \t]*[A-Za-z]\w*(?:[ \t]+[-+.\dEe]+){3,6}[ \t]*\n)+)", re.MULTILINE
)


def course_of_pw(text: str) -> Course:
    """How a run went, from the output of pw.x.

    Args:
        text: contents of the file; an echoed input before the program's banner is not looked at.
    """
    text = text[max(0, text.find("Program PWSCF")) :]
    converged = None
    if "End of BFGS Geometry Optimization" in text or "bfgs converged" in text:
        converged = "bfgs failed" not in text
    if "maximum number of steps has been reached" in text:
        converged = False
    # Every ionic step after the first is announced by its positions.
    announced = [match.start() for match in re.finditer(r"^ATOMIC_POSITIONS", text, flags=re.MULTILINE)]
    failed = [match.start() for match in re.finditer("convergence NOT achieved", text)]
    return Course(
        converged=converged,
        finished="JOB DONE" in text,
        unconverged_steps=frozenset(sum(start < place for start in announced) for place in failed),
        # A free cell changes the plane-wave basis: pw.x computes the end again, on another energy surface.
        extra_steps=int(re.search("[Ff]inal scf calculation at the relaxed structure", text) is not None),
        free=_free(text),
    )


def _free(text: str) -> np.ndarray | None:
    """Components that may move, from the 0/1 flags that pw.x repeats behind the positions it has held."""
    block = _POSITIONS.search(text)
    if block is None:
        return None
    flags = [line.split()[4:7] for line in block[1].splitlines()]
    return np.array([[flag != "0" for flag in f] if len(f) == 3 else [True] * 3 for f in flags])
