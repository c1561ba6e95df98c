"""Structures to be relaxed, from any file that ASE reads: found, read, named, checked."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io.formats import string2index

from bptt_relax.io import atoms as conversion
from bptt_relax.io import geometry, records, sources
from bptt_relax.io.problems import Problem, safe_name
from bptt_relax.io.sources import Source
from bptt_relax.outcomes import InputError
from bptt_relax.systems import Structure

_SUFFIXES = {
    *(".cif", ".extxyz", ".xyz", ".traj", ".db", ".vasp", ".poscar", ".xsf", ".gen", ".res", ".pdb"),
    *(".pwi", ".pwo", ".out"),
}
_VASP = ("POSCAR", "CONTCAR", "vasprun.xml", "OUTCAR")
"""Of these a folder gives the first that it has: the structure that a run started from comes before its results."""
_OUTPUTS = ("vasp-out", "vasp-xml", "espresso-out")


class Found(NamedTuple):
    """One structure, as found in a file.

    Attributes:
        source: the file.
        atoms: everything that the file says about it.
        structure: the same for computing; named uniquely.
    """

    source: str
    atoms: Atoms
    structure: Structure


class StructureInspection(NamedTuple):
    """What was found.

    Attributes:
        found: fit for use, in the order of the paths.
        rejected: why others are not.
        notes: worth knowing about those that are.
    """

    found: list[Found]
    rejected: list[Problem]
    notes: list[Problem]


def inspect_structures(paths: Sequence[Path | str], *, elements: Sequence[int] = ()) -> StructureInspection:
    """Read and check structures without raising for what is wrong with them.

    Args:
        paths: files that ASE reads, compressed or not, and folders, which are searched recursively. Every structure
            of a file is taken; of the output of a DFT run the last step. ``FILE@INDEX`` picks, as everywhere in ASE.
            A folder of a VASP run gives its POSCAR.
        elements: atomic numbers that the potential covers; empty for any.
    """
    found: list[Found] = []
    problems: list[Problem] = []
    taken: set[str] = set()
    for source, index in _sources(paths, problems):
        path = str(source.paths[0])
        try:
            frames, notes = _read(source, index)
        except InputError as error:
            problems.append(Problem(path, "", str(error).removeprefix(f"{path} ").removeprefix(f"{path}: ")))
            continue
        problems += [Problem(path, "", f"reader says: {note}", fatal=False) for note in notes]
        for k, atoms in frames:
            name = _unique(safe_name(source.name if k is None else f"{source.name}-{k}"), taken)
            one = Found(path, atoms, conversion.to_structure(atoms, name))
            told = list(_check(one, elements))
            problems += told
            if not any(problem.fatal for problem in told):
                found.append(one)
    return StructureInspection(found, [p for p in problems if p.fatal], [p for p in problems if not p.fatal])


def _sources(
    paths: Sequence[Path | str], problems: list[Problem]
) -> Iterator[tuple[Source, int | slice | None]]:
    for given in paths:
        try:
            path, index = _split_index(str(given))
        except ValueError:
            problems.append(Problem(str(given), "", "what follows the @ is no index", "as @-1, @3 or @0:10"))
            continue
        if path.is_dir():
            files = [
                here / file for here, names in sources.folders(path) for file in _structures(here, names)
            ]
            if not files:
                problems.append(Problem(str(path), "", "no structures in this folder", "name the files"))
            for file in files:
                yield _source(file, path), index
        elif path.is_file():
            yield _source(path, path.parent), index
        else:
            problems.append(Problem(str(given), "", "no such file or folder", "check the path"))


def _split_index(given: str) -> tuple[Path, int | slice | None]:
    """A path and the ASE index after its last @, None where there is none.

    Raises:
        ValueError: what follows is no index.
    """
    name, at, tail = given.rpartition("@")
    if not at or Path(given).exists():
        return Path(given), None
    index = string2index(tail)
    if isinstance(index, str):
        raise ValueError(tail)
    return Path(name), index


def _structures(folder: Path, names: list[str]) -> list[str]:
    """The files of one folder that hold structures."""
    bare = {name: sources.bare(Path(name)) for name in names}
    vasp = [name for wanted in _VASP for name in names if bare[name].name == wanted][:1]
    others = [
        name
        for name in names
        if bare[name].suffix.lower() in _SUFFIXES
        # Schedulers write .out files, too; nobody means those.
        and (bare[name].suffix.lower() != ".out" or b"Program PWSCF" in sources.beginning(folder / name))
    ]
    return vasp + others


def _source(path: Path, top: Path) -> Source:
    bare = sources.bare(path)
    kind = sources.format_of(path)
    if kind == "espresso-out" and b"Program PWSCF" not in sources.beginning(path):
        kind = None
    relative = path.parent.relative_to(top).as_posix()
    usual = re.match(r"(POSCAR|CONTCAR|OUTCAR|vasprun)", bare.name)
    if usual and bare.name in _VASP:
        name = path.resolve().parent.name if relative == "." else relative
    else:
        name = bare.stem if relative == "." else f"{relative}/{bare.stem}"
    return Source(name, (path,), kind)


def _read(
    source: Source, index: int | slice | None
) -> tuple[list[tuple[int | None, Atoms]], tuple[str, ...]]:
    """Frames with their number, None where a file has only one, and what the reader had to say."""
    if source.format in _OUTPUTS:
        record = records.read_source(source)[-1]
        frames, notes, index = record.steps, record.notes, -1 if index is None else index
    else:
        frames, _, notes, _ = records.read_file(source.paths[0], source.format)
    chosen = range(len(frames))[slice(None) if index is None else index] if _holds(frames, index) else None
    if chosen is None:
        raise InputError(f"{source.paths[0]} has {len(frames)} structures, none at {index}")
    if isinstance(chosen, int):
        return [(None, frames[chosen])], notes
    return [(k if len(frames) > 1 else None, frames[k]) for k in chosen], notes


def _holds(frames: list[Atoms], index: int | slice | None) -> bool:
    if isinstance(index, int):
        return -len(frames) <= index < len(frames)
    return index is None or len(frames[index]) > 0


def _unique(name: str, taken: set[str]) -> str:
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    taken.add(unique)
    return unique


def _check(one: Found, elements: Sequence[int]) -> Iterator[Problem]:
    """Everything that is wrong with one structure, or worth knowing."""
    structure, name = one.structure, one.structure.name

    def say(text: str, fix: str = "", *, fatal: bool = True) -> Problem:
        return Problem(one.source, name, text, fix, fatal)

    if not len(structure.species):
        yield say("the structure has no atoms", "leave it out")
        return
    bad = np.flatnonzero(~np.isfinite(structure.positions).all(axis=1))
    if len(bad):
        yield say(f"position of atom {bad[0]} is NaN or infinite", "repair or leave it out")
        return
    if not geometry.measurable(structure):
        flags = "".join("FT"[int(flag)] for flag in structure.pbc)
        yield say(
            f"cell is not finite or has no volume although pbc is {flags}", "give three lattice vectors"
        )
        return
    yield from _composition(one, elements, say)
    for sentence in conversion.unsupported_constraints(one.atoms):
        yield say(sentence, conversion.CONSTRAINT_FIX)
    if not structure.free.any():
        yield say("all atoms are fixed", fatal=False)
    i, j, ratio = geometry.pairs_within(structure, 0.7)
    for k in np.argsort(ratio)[:1]:
        yield say(
            f"atoms {i[k]} and {j[k]} overlap ({ratio[k]:.2f} of the sum of their covalent radii)",
            "repair or leave it out",
            fatal=bool(ratio[k] < 0.6),
        )
    if not structure.pbc.any() and np.any(one.atoms.cell.array):
        crossing = geometry.bond_across(structure)
        if crossing is not None:
            yield say(
                f"pbc is FFF but a cell is given, and atoms {crossing[0]} and {crossing[1]} would be bonded across "
                "its boundary: is this a bulk?",
                "write pbc into the file",
            )


def _composition(one: Found, elements: Sequence[int], say) -> Iterator[Problem]:
    numbers = sorted(set(one.structure.species.tolist()))
    if 0 in numbers:
        atom = int(np.flatnonzero(one.structure.species == 0)[0])
        yield say(f"atom {atom} is a dummy (X)", "give it an element or remove it")
    unknown = [chemical_symbols[z] for z in numbers if z and elements and z not in elements]
    if unknown:
        yield say(
            f"the model does not cover {', '.join(unknown)}; it covers {len(elements)} element"
            f"{'s' * (len(elements) != 1)}",
            "take another --model, or leave it out",
        )
    # What ASE's reader of CIF files keeps of sites that several elements share.
    sites = one.atoms.info.get("occupancy")
    if isinstance(sites, dict) and any(len(site) > 1 or min(site.values()) < 1 for site in sites.values()):
        yield say("sites are partly occupied", "write an ordered structure")
