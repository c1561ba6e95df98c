"""Units of the package and conversions into them: eV, angstrom, unified atomic mass unit.

Conversion factors are CODATA 2018 as carried by ``ase.units``.
"""

RYDBERG = 13.605693122994
"""eV per rydberg."""
HARTREE = 2 * RYDBERG
"""eV per hartree."""
BOHR = 0.529177210903
"""angstrom per bohr."""
EV_PER_A3_IN_GPA = 160.21766208
"""GPa per eV/angstrom^3."""
