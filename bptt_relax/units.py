"""Units of the package and conversions into them: eV, angstrom, unified atomic mass unit; bytes as people write them.

Conversion factors are CODATA 2018 as carried by ``ase.units``.
"""

import re

RYDBERG = 13.605693122994
"""eV per rydberg."""
HARTREE = 2 * RYDBERG
"""eV per hartree."""
BOHR = 0.529177210903
"""angstrom per bohr."""
EV_PER_A3_IN_GPA = 160.21766208
"""GPa per eV/angstrom^3."""

_PREFIXES = {
    "": 1,
    "k": 1e3,
    "m": 1e6,
    "g": 1e9,
    "t": 1e12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SHOWN = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1))


def parse_bytes(text: str) -> float:
    """Read "8GB", "500 MB", "2GiB" or a plain number of bytes.

    Raises:
        ValueError: none of these, or nothing at all.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([kmgt]i?)?b?\s*", text.lower())
    count = float(found[1]) * _PREFIXES[found[2] or ""] if found else 0.0
    if not count:
        raise ValueError(f"memory size {text!r} is not understood: write for example 8GB, 500MB or 2GiB")
    return count


def format_bytes(count: float) -> str:
    """A number of bytes in the decimal unit that suits it: "46 MB", "8 GB"."""
    prefix, size = next((p, size) for p, size in _SHOWN if count >= size or size == 1)
    return f"{count / size:.3g} {prefix}B"
