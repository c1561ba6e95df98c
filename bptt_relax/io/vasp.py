"""What OUTCAR and vasprun.xml of VASP say beyond structures and labels: what the run was, and how it went."""

import re
from collections.abc import Callable, Mapping

from bptt_relax.io.calculation import RELAXATION, Calculation
from bptt_relax.io.course import Course

_KBAR_IN_GPA = 0.1

_TASKS = {
    -1: "single point",
    0: "molecular dynamics",
    5: "frozen-phonon displacements (finite differences)",
    6: "frozen-phonon displacements (finite differences)",
    7: "a linear-response (phonon) calculation",
    8: "a linear-response (phonon) calculation",
    40: "a reaction path",
    44: "a dimer search for a saddle point",
}
"""IBRION -> what it is if no relaxation."""
_FUNCTIONALS = {
    "PE": "PBE",
    "PS": "PBEsol",
    "CA": "LDA",
    "91": "PW91",
    "RP": "RPBE",
    "RE": "revPBE",
    "AM": "AM05",
    "B3": "B3LYP",
    "BF": "BEEF",
    "OR": "optPBE",
    "BO": "optB88",
    "MK": "optB86b",
    "ML": "rev-vdW-DF2",
}
"""GGA tag or LEXCH of the POTCAR -> functional."""
_LEXCH = {2: "CA", 3: "CA", 7: "91", 8: "PE", 9: "RP", 10: "AM", 11: "B3", 12: "B3", 13: "RE", 14: "PS"}
_DISPERSION = {
    1: "D2",
    10: "D2",
    11: "D3",
    12: "D3(BJ)",
    13: "D4",
    2: "Tkatchenko-Scheffler",
    20: "Tkatchenko-Scheffler",
    21: "Tkatchenko-Scheffler/Hirshfeld",
    202: "many-body dispersion",
    263: "many-body dispersion",
    3: "dDsC",
    4: "dDsC",
}
"""IVDW -> name."""

MACHINE_LEARNED = "steps of a machine-learned force field (ML_LMLFF), not of DFT"


def calculation_of_outcar(text: str) -> Calculation:
    """What a run was, from its OUTCAR.

    Args:
        text: contents of the file.
    """
    # Settings come before the first step; what is behind it may be a thousand times as long.
    first = re.search(r"Iteration +1\(", text)
    head = text[: first.start() if first else len(text)]

    def said(tag: str) -> str | None:
        # The last: INCAR and POTCAR are repeated first, what VASP made of them follows.
        found = re.findall(rf"(?<![\w-]){tag}\s*=\s*([^\s;]+)", head)
        return found[-1] if found else None

    titles = re.findall(r"^\s*TITEL\s*=\s*(.+?)\s*$", head, re.MULTILINE)
    valences = _numbers(re.findall(r"^ +ZVAL +=((?: +[\d.]+)+)\s*$", head, re.MULTILINE)[-1:])
    counts = _numbers(re.findall(r"ions per type =((?: +\d+)+)", head)[-1:])
    # The one of the first POTCAR, where VASP's own line is missing.
    lexch = re.search(r"^\s*LEXCH\s*=\s*([A-Z\d]{2})\s*$", head, re.MULTILINE)
    learned = _is_true(said("ML_LMLFF")) or re.search(r"TOTAL-FORCE \(eV/Angst\) \(ML\)|ML +TOTEN", text)
    version = re.match(r"\s*vasp\.(\S+)", text)
    return _calculation(
        said,
        titles,
        valences,
        counts,
        lexch[1] if lexch else None,
        bool(learned),
        version[1] if version else "",
    )._replace(hubbard=_hubbard_of_outcar(head, titles))


def calculation_of_vasprun(text: str) -> Calculation:
    """What a run was, from its vasprun.xml.

    Args:
        text: contents of the file.
    """
    first = text.find("<calculation>")
    head = text[: first if first >= 0 else len(text)]

    def said(tag: str) -> str | None:
        found = re.findall(rf'name="{tag}" *>\s*([^<]*?)\s*<', head)
        return found[-1] if found else None

    types = re.search(r'<array name="atomtypes".*?</array>', head, re.DOTALL)
    rows = (
        [re.findall(r"<c>([^<]*)</c>", row) for row in re.findall(r"<rc>.*?</rc>", types[0])] if types else []
    )
    rows = [[cell.strip() for cell in row] for row in rows if len(row) >= 5]
    steps = text.split("<calculation>")[1:]
    whole = steps if text.rstrip().endswith("</modeling>") else steps[:-1]
    # A force field has no electronic steps.
    learned = _is_true(said("ML_LMLFF")) or any("<scstep>" not in step for step in whole)
    version = re.search(r'name="version"[^>]*>\s*(\S+?)\s*<', head)
    calculation = _calculation(
        said,
        [row[4] for row in rows],
        [float(row[3]) for row in rows if _is_number(row[3])],
        [float(row[0]) for row in rows if _is_number(row[0])],
        None,
        learned,
        version[1] if version else "",
    )
    numbers = {
        tag: re.findall(rf'<v[^>]*name="{tag}" *>([^<]*)<', head)[-1:] for tag in ("LDAUL", "LDAUU", "LDAUJ")
    }
    corrections = _hubbard(
        _is_true(said("LDAU")), [row[1] for row in rows], *(_numbers(values) for values in numbers.values())
    )
    return calculation._replace(hubbard=None if said("LDAU") is None else corrections)


def _calculation(
    said: Callable[[str], str | None],
    titles: list[str],
    valences: list[float],
    counts: list[float],
    lexch: str | None,
    learned: bool,
    version: str,
) -> Calculation:
    isif, pressure, electrons = _integer(said("ISIF")), _number(said("PSTRESS")), _number(said("NELECT"))
    charge = None
    if electrons is not None and len(valences) == len(counts) > 0:
        charge = round(sum(z * n for z, n in zip(valences, counts, strict=True)) - electrons, 3) or 0.0
    pseudopotentials = {_element(title): title for title in titles}
    return Calculation(
        code=f"VASP {version}".strip(),
        task=MACHINE_LEARNED if learned else _task(said),
        free_cell=None if isif is None else isif in (3, 4, 5, 6, 7, 8),
        pressure=None if pressure is None else pressure * _KBAR_IN_GPA,
        functional=_functional(said, titles, lexch),
        dispersion=_dispersion(said),
        pseudopotentials=pseudopotentials,
        spin=None if said("ISPIN") is None else _integer(said("ISPIN")) == 2,
        charge=charge,
        smearing=None if said("ISMEAR") is None else f"ISMEAR {said('ISMEAR')}, {said('SIGMA')} eV",
        cutoff=_number(said("ENCUT") or said("ENMAX")),
        electronic_steps=_integer(said("NELM")),
        step=_number(said("POTIM")),
    )


def _task(said: Callable[[str], str | None]) -> str | None:
    """A relaxation, or what a run is instead."""
    ibrion, nsw, images = _integer(said("IBRION")), _integer(said("NSW")), _integer(said("IMAGES"))
    if (images or 0) > 0 and ibrion != 44:
        return f"an image of a nudged elastic band (IMAGES = {images})"
    if _integer(said("ICHAIN")) == 2:
        return "a dimer search for a saddle point (ICHAIN = 2)"
    if ibrion in _TASKS:
        return f"{_TASKS[ibrion]} (IBRION = {ibrion})"
    if nsw == 0:
        return "single point (NSW = 0)"
    return RELAXATION if ibrion in (1, 2, 3) else None


def _functional(said: Callable[[str], str | None], titles: list[str], lexch: str | None) -> str | None:
    tag = (said("GGA") or "").upper()
    if tag not in _FUNCTIONALS:
        tag = lexch or _LEXCH.get(_integer(said("LEXCH")) or 0, "")
    if tag not in _FUNCTIONALS and titles:
        made_for = {title.split()[0].upper() for title in titles}
        tag = (
            {"PAW_PBE": "PE", "PAW_GGA": "91", "PAW": "CA"}.get(made_for.pop(), "")
            if len(made_for) == 1
            else ""
        )
    functional = _FUNCTIONALS.get(tag)
    meta = (said("METAGGA") or "").strip("-").upper()
    if meta and meta not in ("NONE", "F", "T"):
        functional = meta
    if _is_true(said("LHFCALC")):
        share, screening = _number(said("AEXX")) or 0.25, _number(said("HFSCREEN")) or 0.0
        kind = f"screened {screening:g}/angstrom" if screening else "unscreened"
        known = {(0.25, 0.2): "HSE06", (0.25, 0.207): "HSE06", (0.25, 0.3): "HSE03", (0.25, 0.0): "PBE0"}
        plain = known.get((share, screening)) if functional in ("PBE", None) else None
        return plain or f"hybrid of {functional} with {100 * share:g}% exact exchange, {kind}"
    return functional


def _dispersion(said: Callable[[str], str | None]) -> str | None:
    if _is_true(said("LUSE_VDW")):
        return "nonlocal vdW-DF"
    kind = _integer(said("IVDW"))
    if not kind:
        return "D2" if _is_true(said("LVDW")) else None
    return _DISPERSION.get(kind, f"IVDW {kind}")


def _hubbard_of_outcar(head: str, titles: list[str]) -> Mapping[str, str] | None:
    rows = [
        _numbers(re.findall(rf"{tag} *=((?: +-?[\d.]+)+)", head)[-1:]) for tag in ("LDAUL", "LDAUU", "LDAUJ")
    ]
    on = _is_true((re.findall(r"(?<!\w)LDAU\s*=\s*(\S+)", head) or [None])[-1]) or "LDA+U is selected" in head
    return _hubbard(on, [_element(title) for title in titles[-len(rows[0]) :]], *rows) if head else None


def _hubbard(
    on: bool, elements: list[str], orbitals: list[float], u: list[float], j: list[float]
) -> Mapping[str, str]:
    """By element; empty without +U."""
    if not on:
        return {}
    found = {}
    for element, orbital, U, J in zip(elements, orbitals, u, j, strict=False):
        if orbital >= 0 and (U or J):
            found[element] = f"l={orbital:g} U={U:g} J={J:g} eV"
    return found


def course_of_outcar(text: str) -> Course:
    """How a run went, from its OUTCAR.

    VASP prints "EDIFF is reached" even when it gave up at NELM, so electronic steps are counted.

    Args:
        text: contents of the file.
    """
    # With the semicolon: what VASP uses, not what the INCAR it repeats asks for.
    nelm = re.search(r"NELM\s*=\s*(\d{1,9})\s*;", text)
    counts: dict[int, int] = {}
    for ionic, electronic in re.findall(r"Iteration\s+(\d{1,9})\(\s*(\d{1,9})\)", text):
        counts[int(ionic)] = max(counts.get(int(ionic), 0), int(electronic))
    limit = int(nelm[1]) if nelm else None
    return Course(
        converged=True if "reached required accuracy - stopping structural" in text else None,
        finished="General timing and accounting" in text,
        unconverged_steps=frozenset(k - 1 for k, n in counts.items() if limit is not None and n >= limit),
        runs=max(1, len(re.findall(r"^ vasp\.\d", text, re.MULTILINE))),
    )


def course_of_vasprun(text: str) -> Course:
    """How a run went, from its vasprun.xml.

    Args:
        text: contents of the file.
    """
    nelm = re.search(r'name="NELM">\s*(\d{1,9})\s*<', text)
    nsw = re.search(r'name="NSW">\s*(\d{1,9})\s*<', text)
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


def _element(title: str) -> str:
    """Element of a POTCAR's title: ``PAW_PBE Ga_d 06Jul2010`` -> ``Ga``."""
    words = title.split()
    return re.split(r"[_.\d]", words[1] if len(words) > 1 else words[0] if words else "")[0]


def _is_true(text: str | None) -> bool:
    return (text or "").strip(". ").upper().startswith("T")


def _is_number(text: str) -> bool:
    return _number(text) is not None


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _integer(text: str | None) -> int | None:
    number = _number(text)
    return int(number) if number is not None and abs(number) < 1e9 else None


def _numbers(texts: list[str]) -> list[float]:
    return [float(word) for text in texts for word in text.split() if _is_number(word)]
