"""What pw.x of Quantum ESPRESSO says beyond structures and labels: what the run was, and how it went."""

import re
from collections import Counter

import numpy as np

from bptt_relax import units
from bptt_relax.io.calculation import RELAXATION, Calculation
from bptt_relax.io.course import Course

RY_PER_BOHR3_IN_GPA = units.RYDBERG / units.BOHR**3 * units.EV_PER_A3_IN_GPA

_LABEL = r"[A-Za-z]\S{0,9}"
"""A species: Si, Si1, Si_a, Si-a."""
_NUMBER = r"[-+]?[\d.]+(?:[eEdD][-+]?\d+)?"
_POSITIONS = re.compile(
    rf"^ATOMIC_POSITIONS[^\n]*\n((?:[ \t]*{_LABEL}(?:[ \t]+{_NUMBER}){{3,6}}[ \t]*\n)+)", re.MULTILINE
)
_MOTIONS = (
    ("Molecular Dynamics Calculation", "molecular dynamics"),
    ("Langevin Dynamics Calculation", "Langevin dynamics"),
    ("Wentzcovitch Cell Dynamics", "molecular dynamics with a moving cell"),
    ("Parrinello-Rahman Cell Dynamics", "molecular dynamics with a moving cell"),
    ("Beeman Dynamics", "molecular dynamics"),
    ("BFGS Geometry Optimization", RELAXATION),
    ("Damped Dyn", RELAXATION),
    ("Damped Cell", RELAXATION),
)
"""What pw.x announces -> what it is."""
_FUNCTIONALS = {
    "SLA PW PBE PBE": "PBE",
    "SLA PW PBX PBC": "PBE",
    "SLA PW PSX PSC": "PBEsol",
    "SLA PZ NOGX NOGC": "LDA",
    "SLA PW NOGX NOGC": "LDA (PW)",
    "SLA PW REVX PBC": "revPBE",
    "SLA LYP B88 BLYP": "BLYP",
    "PBEX PBEC": "PBE",
    "PBESOL": "PBEsol",
    "PZ": "LDA",
}


def calculation_of_pw(text: str) -> Calculation:
    """What a run was, from the output of pw.x.

    Args:
        text: contents of the file; an echoed input before the program's banner is not looked at.
    """
    text = text[max(0, text.find("Program PWSCF")) :]
    # Settings come before the first energy.
    head = text[: text.find("\n!") if "\n!" in text else len(text)]

    def said(pattern: str) -> str | None:
        found = re.search(pattern, head)
        return found[1].strip() if found else None

    valences = dict(re.findall(rf"^ +({_LABEL}) +([\d.]+) +[\d.]+ +{_LABEL}\( *[\d.]+\)", head, re.MULTILINE))
    atoms = Counter(re.findall(rf"^ +\d+ +({_LABEL}) +tau\(", head, re.MULTILINE))
    electrons = said(r"number of electrons +=\s*([\d.]+)")
    charge = None
    if electrons is not None and atoms and set(atoms) <= set(valences):
        total = sum(_number(valences[label]) * count for label, count in atoms.items())
        charge = round(total - _number(electrons), 3) or 0.0
    pseudopotentials: dict[str, str] = {}
    for label, path in re.findall(rf"PseudoPot\. *# *\d+ for +({_LABEL}) +read from file:?\s+(\S+)", head):
        pseudopotentials.setdefault(_element(label), path.rsplit("/", 1)[-1])
    cutoff = said(r"kinetic-energy cutoff +=\s*([\d.]+)")
    version = said(r"Program PWSCF v\.(\S+)")
    functional = said(r"Exchange-correlation *= *([^\n(]+)")
    return Calculation(
        code=f"Quantum ESPRESSO {version or ''}".strip(),
        task=_task(text),
        free_cell="press convergence thresh" in head or "new unit-cell volume" in text,
        pressure=_pressure(text),
        functional=None if functional is None else _FUNCTIONALS.get(" ".join(functional.split()), functional),
        hubbard=_hubbard(head),
        dispersion=_dispersion(head),
        pseudopotentials=pseudopotentials,
        spin="Starting magnetic structure" in head or "total magnetization" in head,
        charge=charge,
        smearing=said(r"([\w-]+ smearing, width \(Ry\)= *[\d.]+)"),
        cutoff=None if cutoff is None else _number(cutoff) * units.RYDBERG,
    )


def _task(text: str) -> str | None:
    if "Program NEB" in text:
        return "a nudged elastic band"
    for announced, task in _MOTIONS:
        if announced in text:
            return task
    moved = re.search("^ATOMIC_POSITIONS", text, re.MULTILINE)
    return "single point (calculation = 'scf')" if "JOB DONE" in text and not moved else None


def _pressure(text: str) -> float | None:
    """Pressure at which the cell is relaxed, GPa: pw.x prints enthalpies, which it is in.

    Of the smallest cells a kilobar is 1e-3 Ry, of which pw.x prints eight digits.
    """
    enthalpy = re.search(r"enthalpy new += +(-?\d+\.\d+) Ry", text)
    if enthalpy is None:
        return None
    before = text[: enthalpy.start()]
    energies = re.findall(r"^! +total energy += +(-?\d+\.\d+) Ry", before, re.MULTILINE)
    volumes = re.findall(r"unit-cell volume += +(\d+\.\d+) ", before)
    if not energies or not volumes or _number(volumes[-1]) == 0:
        return None
    excess = (_number(enthalpy[1]) - _number(energies[-1])) / _number(volumes[-1])
    return round(excess * RY_PER_BOHR3_IN_GPA, 2) or 0.0


def _hubbard(head: str) -> dict[str, str]:
    found = {}
    table = re.search(r"LDA\+U calculation[^\n]*\n[^\n]*\n((?: +[A-Za-z]\S* +\d(?: +-?[\d.]+)+ *\n)+)", head)
    for row in table[1].splitlines() if table else ():
        label, orbital, u, _alpha, j, *_ = [*row.split(), "0", "0"]
        if _number(u) or _number(j):
            found[_element(label)] = f"l={orbital} U={_number(u):g} J={_number(j):g} eV"
    for label, orbital, u in re.findall(rf"\bU *\(({_LABEL})-(\d[spdf])\) *= *({_NUMBER})", head):
        orbital = "spdf".index(orbital[1])
        found[_element(label)] = f"l={orbital} U={_number(u):g} J=0 eV"
    return found


def _dispersion(head: str) -> str | None:
    for mark, name in (
        ("DFT-D3", "D3"),
        ("Parameters for Dispersion Correction", "D2"),
        ("Tkatchenko", "Tkatchenko-Scheffler"),
        ("XDM", "XDM"),
    ):
        if mark in head:
            return name
    return None


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
        runs=max(1, text.count("Program PWSCF")),
        free=_free(text),
    )


def _free(text: str) -> np.ndarray | None:
    """Components that may move, from the 0/1 flags that pw.x repeats behind the positions it has held."""
    block = _POSITIONS.search(text)
    if block is None:
        return None
    flags = [line.split()[4:7] for line in block[1].splitlines()]
    return np.array([[flag != "0" for flag in f] if len(f) == 3 else [True] * 3 for f in flags])


def _element(label: str) -> str:
    """Element of a species: ``Si1``, ``Si_a`` -> ``Si``."""
    return re.split(r"[_\-\d]", label)[0].capitalize()


def _number(text: str) -> float:
    """A number as Fortran writes it; NaN where it is damaged."""
    try:
        return float(text.replace("d", "e").replace("D", "e"))
    except ValueError:
        return float("nan")
