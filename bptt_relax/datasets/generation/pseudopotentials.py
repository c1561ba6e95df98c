"""Pseudopotential files: which one an element gets, and what their headers say."""

import re
from pathlib import Path
from typing import NamedTuple

from bptt_relax.outcomes import InputError

HEADER_BYTES = 200_000


class Pseudopotential(NamedTuple):
    """One file.

    Attributes:
        path: of the UPF file.
        valence: number of valence electrons.
        norm_conserving: the density needs no more than four times the cutoff of the wave functions.
    """

    path: Path
    valence: float
    norm_conserving: bool


def find(folder: Path, elements: list[str]) -> dict[str, Pseudopotential]:
    """The pseudopotentials of some elements: one file ``Si.*.upf`` per element, any case.

    Args:
        folder: to look in.
        elements: chemical symbols.

    Raises:
        InputError: an element has no file there or several, or a file can't be understood.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give the folder of the pseudopotentials with --pseudos")
    found, problems = {}, []
    for element in elements:
        files = [
            path
            for path in sorted(folder.iterdir())
            if path.suffix.lower() == ".upf" and re.match(rf"{element}[._-]", path.name, re.IGNORECASE)
        ]
        if len(files) == 1:
            found[element] = read(files[0])
        elif files:
            problems.append(f"{element} has several: {', '.join(path.name for path in files)}; keep one")
        else:
            problems.append(f"{element} has none (expected {element}.*.UPF)")
    if problems:
        raise InputError(f"pseudopotentials in {folder}: {'; '.join(problems)}")
    return found


def read(path: Path) -> Pseudopotential:
    """Read the header of a UPF file, version 1 or 2.

    Raises:
        InputError: it says neither.
    """
    with path.open(errors="replace") as file:
        text = file.read(HEADER_BYTES)
    kind = re.search(r'pseudo_type\s*=\s*"\s*(\w+)', text) or re.search(
        r"^\s*(NC|US|PAW)\b", text, re.MULTILINE
    )
    valence = re.search(r'z_valence\s*=\s*"\s*([\d.Ee+-]+)', text) or re.search(
        r"^\s*([\d.Ee+-]+)\s+Z valence", text, re.MULTILINE
    )
    if kind is None or valence is None:
        raise InputError(f"{path} is not a UPF pseudopotential: its header names no type or no valence")
    return Pseudopotential(path, float(valence[1]), kind[1] in ("NC", "SL"))
