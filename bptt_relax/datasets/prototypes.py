"""Simple crystals of chemistry all over the periodic table, at measured lattice constants; no reference calculation.

Two sets without a formula in common: ``PROBE`` judges what fine-tuning has changed elsewhere, ``REPLAY`` is what it
may be held to meanwhile. Holding it to what judges it would make the judgement worthless.
"""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk


class Crystal(NamedTuple):
    """A crystal in one of a few prototypes.

    Attributes:
        formula: as ASE reads it.
        prototype: name of the structure type, as `atoms` knows it.
        a: lattice constant, angstrom.
        c: second lattice constant of hexagonal and tetragonal cells, angstrom.
        bonding: metal, ionic, covalent or oxide.
        bulk_modulus: measured, GPa; None where nothing asks for it.
    """

    formula: str
    prototype: str
    a: float
    c: float | None = None
    bonding: str = "metal"
    bulk_modulus: float | None = None

    @property
    def numbers(self) -> frozenset[int]:
        """Atomic numbers."""
        return frozenset(Atoms(self.formula).numbers.tolist())


# Measured at room temperature, any textbook's tables; bulk moduli differ by a few percent between sources.
PROBE = (
    Crystal("Al", "fcc", 4.050, bulk_modulus=76),
    Crystal("Cu", "fcc", 3.615, bulk_modulus=140),
    Crystal("Ag", "fcc", 4.086, bulk_modulus=103),
    Crystal("Ni", "fcc", 3.524, bulk_modulus=186),
    Crystal("Pt", "fcc", 3.924, bulk_modulus=278),
    Crystal("Fe", "bcc", 2.867, bulk_modulus=168),
    Crystal("W", "bcc", 3.165, bulk_modulus=314),
    Crystal("Na", "bcc", 4.291, bulk_modulus=6.5),
    Crystal("Mg", "hcp", 3.209, 5.211, bulk_modulus=35),
    Crystal("Ti", "hcp", 2.951, 4.684, bulk_modulus=108),
    Crystal("NiAl", "cesiumchloride", 2.887, bulk_modulus=160),
    Crystal("LiF", "rocksalt", 4.027, bonding="ionic", bulk_modulus=68),
    Crystal("NaCl", "rocksalt", 5.640, bonding="ionic", bulk_modulus=25),
    Crystal("KBr", "rocksalt", 6.600, bonding="ionic", bulk_modulus=15),
    Crystal("CsCl", "cesiumchloride", 4.123, bonding="ionic", bulk_modulus=17),
    Crystal("CaF2", "fluorite", 5.463, bonding="ionic", bulk_modulus=83),
    Crystal("C", "diamond", 3.567, bonding="covalent", bulk_modulus=443),
    Crystal("Ge", "diamond", 5.658, bonding="covalent", bulk_modulus=75),
    Crystal("BN", "zincblende", 3.615, bonding="covalent", bulk_modulus=385),
    Crystal("GaAs", "zincblende", 5.653, bonding="covalent", bulk_modulus=75.5),
    Crystal("ZnS", "zincblende", 5.409, bonding="covalent", bulk_modulus=77),
    Crystal("AlN", "wurtzite", 3.112, 4.982, bonding="covalent", bulk_modulus=207),
    Crystal("TiN", "rocksalt", 4.242, bonding="covalent", bulk_modulus=290),
    Crystal("MgO", "rocksalt", 4.212, bonding="oxide", bulk_modulus=162),
    Crystal("ZnO", "wurtzite", 3.250, 5.207, bonding="oxide", bulk_modulus=143),
    Crystal("TiO2", "rutile", 4.594, 2.959, bonding="oxide", bulk_modulus=212),
    Crystal("SrTiO3", "perovskite", 3.905, bonding="oxide", bulk_modulus=174),
)

REPLAY = (
    Crystal("Pd", "fcc", 3.891),
    Crystal("Au", "fcc", 4.078),
    Crystal("Ca", "fcc", 5.588),
    Crystal("Mo", "bcc", 3.147),
    Crystal("V", "bcc", 3.027),
    Crystal("K", "bcc", 5.328),
    Crystal("Zr", "hcp", 3.232, 5.147),
    Crystal("Co", "hcp", 2.507, 4.069),
    Crystal("FeAl", "cesiumchloride", 2.909),
    Crystal("CuZn", "cesiumchloride", 2.954),
    Crystal("NaF", "rocksalt", 4.634, bonding="ionic"),
    Crystal("LiCl", "rocksalt", 5.130, bonding="ionic"),
    Crystal("KCl", "rocksalt", 6.293, bonding="ionic"),
    Crystal("CsBr", "cesiumchloride", 4.286, bonding="ionic"),
    Crystal("BaF2", "fluorite", 6.200, bonding="ionic"),
    Crystal("InP", "zincblende", 5.869, bonding="covalent"),
    Crystal("AlP", "zincblende", 5.463, bonding="covalent"),
    Crystal("CdTe", "zincblende", 6.482, bonding="covalent"),
    Crystal("GaN", "wurtzite", 3.189, 5.185, bonding="covalent"),
    Crystal("TiC", "rocksalt", 4.328, bonding="covalent"),
    Crystal("CaO", "rocksalt", 4.811, bonding="oxide"),
    Crystal("BeO", "wurtzite", 2.698, 4.377, bonding="oxide"),
    Crystal("SnO2", "rutile", 4.737, 3.186, bonding="oxide"),
    Crystal("BaTiO3", "perovskite", 4.000, bonding="oxide"),
)


def atoms(crystal: Crystal) -> Atoms:
    """The smallest cell in which atoms can move against each other: 2 to 6 atoms.

    Args:
        crystal: any whose prototype is known.

    Raises:
        ValueError: an unknown prototype.
    """
    formula, prototype, a, c = crystal[:4]
    if prototype in ("fcc", "bcc"):
        return bulk(formula, prototype, a=a, cubic=True)
    if prototype in ("diamond", "rocksalt", "zincblende", "cesiumchloride", "fluorite"):
        return bulk(formula, prototype, a=a)
    if prototype in ("hcp", "wurtzite"):
        return bulk(formula, prototype, a=a, c=c)
    if prototype == "rutile":
        u = 0.305
        places = [
            (0, 0, 0),
            (0.5, 0.5, 0.5),
            (u, u, 0),
            (-u, -u, 0),
            (0.5 + u, 0.5 - u, 0.5),
            (0.5 - u, 0.5 + u, 0.5),
        ]
        metal, anion = Atoms(formula).get_chemical_symbols()[:2]
        return Atoms(
            [metal] * 2 + [anion] * 4, scaled_positions=places, cell=np.diag([a, a, c or a]), pbc=True
        )
    if prototype == "perovskite":
        places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
        return Atoms(formula, scaled_positions=places, cell=a * np.eye(3), pbc=True)
    raise ValueError(f"unknown prototype {prototype!r} of {formula}")


def covered(
    crystals: tuple[Crystal, ...], elements: tuple[int, ...], without: set[frozenset[int]]
) -> list[Crystal]:
    """Those a potential covers, without those of given chemistry.

    Args:
        crystals: to choose from.
        elements: atomic numbers the potential covers; empty for any.
        without: sets of atomic numbers; a crystal made of exactly one of them is left out.
    """
    return [c for c in crystals if c.numbers not in without and (not elements or c.numbers <= set(elements))]
