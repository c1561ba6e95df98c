"""What VASP says about the course of a relaxation, beyond structures and labels."""

import re
from pathlib import Path

from bptt_relax.io.course import Course


def course_of_outcar(text: str) -> Course:
    """How a run went, from its OUTCAR.

    VASP prints "EDIFF is reached" even when it gave up at NELM, so electronic steps are counted.

    Args:
        text: contents of the file.
    """
    # With the semicolon: what VASP uses, not what the INCAR it repeats asks for.
    nelm = re.search(r"NELM\s*=\s*(\d+)\s*;", text)
    counts: dict[int, int] = {}
    for ionic, electronic in re.findall(r"Iteration\s+(\d+)\(\s*(\d+)\)", text):
        counts[int(ionic)] = max(counts.get(int(ionic), 0), int(electronic))
    limit = int(nelm[1]) if nelm else None
    finished = "General timing and accounting" in text
    return Course(
        converged=True if "reached required accuracy - stopping structural" in text else None,
        finished=finished,
        unconverged_steps=frozenset(k - 1 for k, n in counts.items() if limit is not None and n >= limit),
    )


def course_of_vasprun(text: str) -> Course:
    """How a run went, from its vasprun.xml.

    Args:
        text: contents of the file.
    """
    nelm = re.search(r'name="NELM">\s*(\d+)', text)
    nsw = re.search(r'name="NSW">\s*(\d+)', text)
    steps = text.split("<calculation>")[1:]
    finished = text.rstrip().endswith("</modeling>")
    limit = int(nelm[1]) if nelm else None
    stopped_early = finished and nsw is not None and 1 < len(steps) < int(nsw[1])
    return Course(
        converged=True if stopped_early else None,
        finished=finished,
        unconverged_steps=frozenset(
            t for t, step in enumerate(steps) if limit is not None and step.count("<scstep>") >= limit
        ),
    )


def find_selective(folder: Path, read) -> list | None:
    """Constraints from the POSCAR or CONTCAR beside an OUTCAR, which itself doesn't repeat them.

    Args:
        folder: of the run.
        read: path -> Atoms.

    Returns:
        ASE constraints, or None where there is no readable POSCAR or CONTCAR.
    """
    for stem in ("POSCAR", "CONTCAR"):
        for path in sorted(folder.glob(f"{stem}*")):
            if path.name.split(".")[0] == stem and path.name.removeprefix(stem) in ("", ".gz", ".xz", ".bz2"):
                try:
                    return list(read(path).constraints)
                except Exception:  # an empty CONTCAR of a killed run is no reason to refuse its OUTCAR
                    continue
    return None
