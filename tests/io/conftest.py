"""Real relaxations to write, break and read again."""

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.data import chemical_symbols

from bptt_relax import datasets
from bptt_relax.io import Relaxation, to_atoms

FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="session")
def files() -> Path:
    """Outputs of pw.x for two silicon atoms: relaxed, with a free cell, and out of steps."""
    return FILES


@pytest.fixture(scope="session")
def defects() -> datasets.Dataset:
    return datasets.load("silicon-defects")


@pytest.fixture(scope="session")
def relaxation(defects) -> Relaxation:
    """32 atoms of three species in 11 steps."""
    return defects.select(["p32_pair_Al_P_s0"])[0]


@pytest.fixture
def steps(relaxation) -> list[Atoms]:
    """The steps of `relaxation`, to be changed at will."""
    return [
        to_atoms(frame, energy=float(energy), forces=forces.copy(), stress=stress)
        for frame, energy, forces, stress in zip(
            relaxation.frames, relaxation.energies, relaxation.forces, relaxation.stresses, strict=True
        )
    ]


@pytest.fixture(scope="session")
def vasp_folder() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "vasp"
    if not folder.is_dir():
        pytest.skip("the public VASP relaxations (../shared/data/vasp) are not here")
    return folder


class VaspFiles:
    """Files in the formats of VASP, written from our own relaxations, as a run with given settings would write them.

    Args:
        relaxation: with energies, forces and stresses.
        **tags: settings in place of the usual ones, as they stand in the INCAR.
    """

    USUAL: ClassVar[dict] = {
        "NSW": 99,
        "IBRION": 2,
        "ISIF": 2,
        "PSTRESS": 0.0,
        "ISPIN": 1,
        "NELM": 60,
        "ISMEAR": 0,
        "SIGMA": 0.05,
        "GGA": "PE",
        "ENCUT": 245.0,
        "POTIM": 0.5,
        "LHFCALC": "F",
        "METAGGA": "--",
        "LUSE_VDW": "F",
    }
    ELECTRONIC = 9
    """Electronic steps of each ionic step."""

    def __init__(self, relaxation: Relaxation, **tags):
        self.r = relaxation
        self.tags = self.USUAL | tags
        self.order = np.argsort(relaxation.initial.species, kind="stable")
        species, self.counts = np.unique(relaxation.initial.species, return_counts=True)
        self.symbols = [chemical_symbols[z] for z in species]
        self.valences = {"Si": 4.0, "Al": 3.0, "P": 5.0, "O": 6.0, "C": 4.0, "B": 3.0, "Ge": 4.0}

    @property
    def electrons(self) -> float:
        return sum(self.valences[s] * n for s, n in zip(self.symbols, self.counts, strict=True))

    def outcar(self, *, learned: Collection[int] = (), finished: bool = True) -> str:
        """An OUTCAR; the given steps by a machine-learned force field."""
        r, tags = self.r, {"NELECT": self.electrons, **self.tags}
        lines = [" vasp.6.4.2 20Jul23 (build of a test) complex", ""]
        lines += 2 * [f" POTCAR:    PAW_PBE {s} 01Jan2001" for s in self.symbols]
        for s in self.symbols:
            lines += [f"   VRHFIN ={s}: s2", "   LEXCH  = PE", f"   TITEL  = PAW_PBE {s} 01Jan2001"]
        lines += ["   ions per type = " + " ".join(f"{n:5d}" for n in self.counts)]
        lines += ["   ZVAL   = " + " ".join(f"{self.valences[s]:6.2f}" for s in self.symbols)]
        lines += [
            f"   {tag:6s} = {value};  " if tag == "NELM" else f"   {tag:6s} = {value}    of this run"
            for tag, value in tags.items()
        ]
        for t, frame in enumerate(r.frames):
            ml = t in learned
            for k in range(0 if ml else self.ELECTRONIC):
                lines.append(f"{'-' * 39} Iteration {t + 1:6d}({k + 1:4d})  {'-' * 39}")
            # VASP prints what pushes the cell outward, in kB, as xx yy zz xy yz zx.
            kbar = -1602.1766208 * r.stresses[t]
            six = kbar[[0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]]
            lines += ["  in kB   " + "".join(f"{x:13.5f}" for x in six), ""]
            lines += ["      direct lattice vectors                 reciprocal lattice vectors"]
            lines += ["".join(f"{x:16.9f}" for x in v) + "     0.1 0.1 0.1" for v in frame.cell]
            lines += [
                "",
                f" POSITION {' ' * 38} TOTAL-FORCE (eV/Angst){' (ML)' if ml else ''}",
                " " + "-" * 83,
            ]
            lines += [
                "".join(f"{x:13.7f}" for x in (*frame.positions[a], *r.forces[t][a])) for a in self.order
            ]
            e = r.energies[t]
            kind = " ML" if ml else ""
            lines += [" " + "-" * 83, "    total drift:  0.0 0.0 0.0", "", f" {kind} FREE ENERGIE OF THE ION-ELECTRON "
                      "SYSTEM (eV)", "  ---------------------------------------------------",
                      f"  free  energy{kind}   TOTEN  = {e:18.8f} eV", "",
                      f" {kind} energy  without entropy= {e:18.8f}  energy(sigma->0) = {e:18.8f}", ""]  # fmt: skip
        if finished:
            lines += [" reached required accuracy - stopping structural energy minimisation"] * bool(
                r.converged
            )
            lines += ["", " General timing and accounting informations for this job:", " " + "=" * 56]
        return "\n".join(lines) + "\n"

    def vasprun(self, *, learned: Collection[int] = (), finished: bool = True) -> str:
        """The same as vasprun.xml."""
        r, tags = self.r, {"NELECT": self.electrons, **self.tags}
        pressure = float(tags["PSTRESS"]) / 1602.1766208

        def item(tag: str, value) -> str:
            kind = {int: ' type="int"', str: ' type="string"'}.get(type(value), "")
            return f'   <i{kind} name="{tag}">{value}</i>'

        def array(name: str, rows) -> list[str]:
            inner = ["    <v>" + "".join(f"{x:18.10f}" for x in row) + " </v>" for row in rows]
            return [f'   <varray name="{name}" >', *inner, "   </varray>"]

        def structure(frame, name: str = "") -> list[str]:
            fractional = (frame.positions @ np.linalg.inv(frame.cell))[self.order]
            return [
                *(f"  <structure{name} >", "  <crystal>", *array("basis", frame.cell), "  </crystal>"),
                *(*array("positions", fractional), "  </structure>"),
            ]

        lines = ['<?xml version="1.0" encoding="ISO-8859-1"?>', "<modeling>", " <generator>"]
        lines += ['  <i name="version" type="string">6.4.2  </i>', " </generator>", " <kpoints>"]
        lines += [
            *array("kpointlist", [(0, 0, 0)]),
            *array("weights", [(1,)]),
            " </kpoints>",
            " <parameters>",
        ]
        lines += [item(tag, value) for tag, value in tags.items()]
        atoms = [s for s, n in zip(self.symbols, self.counts, strict=True) for _ in range(n)]
        lines += [
            " </parameters>",
            " <atominfo>",
            f"  <atoms> {len(atoms)} </atoms>",
            '  <array name="atoms" >',
            "<set>",
        ]
        lines += [f"<rc><c>{s}</c><c>1</c></rc>" for s in atoms]
        lines += ["</set>", "</array>", '  <array name="atomtypes" >', "<set>"]
        lines += [
            f"<rc><c>{n}</c><c>{s}</c><c>1.0</c><c>{self.valences[s]}</c><c>PAW_PBE {s} 01Jan2001</c></rc>"
            for s, n in zip(self.symbols, self.counts, strict=True)
        ]
        lines += ["</set>", "</array>", " </atominfo>", *structure(r.initial, ' name="initialpos"')]
        for t, frame in enumerate(r.frames):
            # In the energy of a whole step, other than in those of its electronic steps, is the work of the pressure.
            e = r.energies[t]
            enthalpy = e + pressure * abs(np.linalg.det(frame.cell))
            energies = [f'<i name="{k}">{{0:.8f}}</i>' for k in ("e_fr_energy", "e_wo_entrp", "e_0_energy")]
            block = ["<energy>", *energies, "</energy>"]
            lines += [" <calculation>"]
            for _ in range(0 if t in learned else self.ELECTRONIC):
                lines += ["<scstep>", *(x.format(e) for x in block), "</scstep>"]
            lines += structure(frame) + array("forces", r.forces[t][self.order])
            lines += [*array("stress", -1602.1766208 * r.stresses[t]), *(x.format(enthalpy) for x in block)]
            lines += [" </calculation>"]
        return "\n".join([*lines, "</modeling>" if finished else ""]) + "\n"

    def poscar(self, step: int = 0, held: Collection[int] = ()) -> str:
        """A POSCAR of one step, with the given atoms (as they are numbered in the file) held."""
        frame = self.r.frames[step]
        lines = ["a test", " 1.0", *("".join(f"{x:20.12f}" for x in v) for v in frame.cell)]
        lines += [" ".join(self.symbols), " ".join(map(str, self.counts))]
        lines += ["Selective dynamics"] * bool(held) + ["Direct"]
        for k, s in enumerate((frame.positions @ np.linalg.inv(frame.cell))[self.order]):
            flags = ("  F F F" if k in held else "  T T T") if held else ""
            lines.append("".join(f"{x:20.12f}" for x in s) + flags)
        return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def vasp_files() -> type[VaspFiles]:
    """Writes outputs of VASP."""
    return VaspFiles


@pytest.fixture(scope="session")
def crystals() -> datasets.Dataset:
    """Some of them with a free cell."""
    return datasets.load("crystals")


@pytest.fixture(scope="session")
def squeezed(crystals) -> Relaxation:
    """A relaxation of the cell, 8 atoms of silicon."""
    return crystals.select(["x_Si_dia8_vcrelax_s0"])[0]
