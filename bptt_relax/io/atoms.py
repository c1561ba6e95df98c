"""ASE's Atoms to our structures and back."""

import re
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled
from ase.geometry import complete_cell
from ase.stress import voigt_6_to_full_3x3_stress

from bptt_relax.systems import Structure

VACUUM = 10.0
"""angstrom of empty space along an axis that is not periodic and has no cell vector."""


class LabelKeys(NamedTuple):
    """Under which keys the labels of a file stand; None where ASE's own calculator results hold them."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    virial: str | None = None


DEFAULT_KEYS = LabelKeys()


class Unused(NamedTuple):
    """Names of what a structure carries and nobody reads, by what the names suggest.

    Attributes:
        energy: numbers.
        forces: arrays of three numbers per atom.
        stress: six or nine numbers.
        virial: six or nine numbers.
        constraints: arrays of flags.
        other: everything else.
    """

    energy: tuple[str, ...] = ()
    forces: tuple[str, ...] = ()
    stress: tuple[str, ...] = ()
    virial: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


class Labels(NamedTuple):
    """What the reference method says about one structure.

    Attributes:
        energy: eV, or None. The one that the forces belong to (free energy) where a file has several.
        forces: (n, 3) eV/angstrom, constraints not applied, or None.
        stress: (3, 3) eV/angstrom^3 with ASE's sign, or None.
        energy_kind: "free" or "total" (as the file calls it), or a key of the user's.
    """

    energy: float | None
    forces: np.ndarray | None
    stress: np.ndarray | None
    energy_kind: str | None = None


def to_structure(atoms: Atoms, name: str, *, cell: np.ndarray | None = None) -> Structure:
    """Convert, positions neither wrapped nor moved.

    Args:
        atoms: left-handed cells are kept as they are.
        name: what messages call it.
        cell: (3, 3) angstrom to use instead of completing the atoms' own, so that all steps of a relaxation
            share one completion.
    """
    positions = np.array(atoms.get_positions(), np.float64)
    return Structure(
        name=name,
        species=np.array(atoms.get_atomic_numbers(), np.int64),
        masses=np.array(atoms.get_masses(), np.float64),
        positions=positions,
        cell=full_cell(np.array(atoms.cell.array), atoms.pbc, positions) if cell is None else np.array(cell),
        pbc=np.array(atoms.pbc, bool),
        free=free_components(atoms),
    )


def to_atoms(
    structure: Structure,
    *,
    energy: float | None = None,
    forces: np.ndarray | None = None,
    stress: np.ndarray | None = None,
) -> Atoms:
    """Convert back, with fixed components as constraints and labels, where given, as calculator results.

    Args:
        structure: on the host.
        energy: eV.
        forces: (n, 3) eV/angstrom.
        stress: (3, 3) eV/angstrom^3.
    """
    atoms = Atoms(
        numbers=structure.species,
        positions=structure.positions,
        cell=structure.cell,
        pbc=structure.pbc,
    )
    if not np.array_equal(structure.masses, atoms.get_masses()):
        atoms.set_masses(structure.masses)  # pyright: ignore[reportArgumentType]
    fixed = ~structure.free
    constraints: list = [FixAtoms(np.flatnonzero(fixed.all(axis=1)))] if fixed.all(axis=1).any() else []
    partly = np.flatnonzero(fixed.any(axis=1) & ~fixed.all(axis=1))
    constraints += [FixCartesian(int(atom), fixed[atom]) for atom in partly]
    if constraints:
        atoms.set_constraint(constraints)
    results = {"energy": energy, "forces": forces, "stress": stress}
    results = {key: value for key, value in results.items() if value is not None}
    if "stress" in results:
        results["stress"] = np.asarray(stress).reshape(9)[[0, 4, 8, 5, 2, 1]]  # Voigt: xx yy zz yz xz xy
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def full_cell(cell: np.ndarray, pbc: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A cell of full rank: missing vectors of non-periodic axes become wide enough for the atoms and vacuum.

    Args:
        cell: (3, 3) angstrom, zero rows where there is no vector.
        pbc: (3,) bool.
        positions: (n, 3) angstrom.

    Returns:
        (3, 3) angstrom. Missing vectors of periodic axes stay missing: the caller has to refuse them.
    """
    missing = ~np.any(cell, axis=1) & ~np.asarray(pbc, bool)
    if not missing.any() or (~np.any(cell, axis=1) & np.asarray(pbc, bool)).any():
        return cell
    directions = complete_cell(cell)
    full = cell.copy()
    for axis in np.flatnonzero(missing):
        along = positions @ directions[axis]
        full[axis] = directions[axis] * (np.ptp(along) + VACUUM if len(along) else VACUUM)
    return full


def free_components(atoms: Atoms) -> np.ndarray:
    """Which Cartesian components may move, from FixAtoms, FixCartesian and, where it amounts to those, FixScaled.

    Args:
        atoms: with constraints.

    Returns:
        (n, 3) bool.
    """
    free = np.ones((len(atoms), 3), bool)
    for constraint in atoms.constraints:
        fixed = _fixed_components(constraint, atoms)
        if fixed is not None:
            indices, mask = fixed
            free[indices] &= ~mask
    return free


def unsupported_constraints(atoms: Atoms) -> list[str]:
    """What is wrong with constraints that `free_components` can't express, one sentence each."""
    found = {
        f"constraint {type(c).__name__} can't be kept: only fixed atoms and fixed Cartesian components can"
        + (", and a lattice vector that is held here is none" if isinstance(c, FixScaled) else "")
        for c in atoms.constraints
        if _fixed_components(c, atoms) is None
    }
    return sorted(found)


CONSTRAINT_FIX = (
    "turn the cell so that what is held lies along x, y or z; or fix whole atoms (FixAtoms) or Cartesian components "
    "(FixCartesian); or leave it out"
)


def labels(atoms: Atoms, keys: LabelKeys = DEFAULT_KEYS) -> Labels:
    """Energy, forces and stress as the file has them.

    Args:
        atoms: as read, with or without a calculator.
        keys: where to look instead.

    Raises:
        KeyError: a given key is not there.
        ValueError: the key, and why what stands under it can't be used.
    """
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    if keys.energy is not None:
        energy, energy_kind = _numbers(atoms, results, keys.energy, (1,)), keys.energy
    elif "free_energy" in results:
        energy, energy_kind = float(results["free_energy"]), "free"
    else:
        energy, energy_kind = results.get("energy"), "total"
    if keys.forces is not None:
        forces = _numbers(atoms, results, keys.forces, (3 * len(atoms),))
    else:
        forces = results.get("forces")
    if keys.virial is not None:
        volume = abs(np.linalg.det(atoms.cell.array))
        if volume == 0:
            raise ValueError(f"{keys.virial}, because a virial needs a cell with a volume")
        stress = -_tensor(_numbers(atoms, results, keys.virial, (6, 9))) / volume
    elif keys.stress is not None:
        stress = _tensor(_numbers(atoms, results, keys.stress, (6, 9)))
    else:
        stress = None if results.get("stress") is None else _tensor(np.asarray(results["stress"], np.float64))
    return Labels(
        None if energy is None else float(np.reshape(energy, ())),
        None if forces is None else np.asarray(forces, np.float64).reshape(len(atoms), 3),
        stress,
        None if energy is None else energy_kind,
    )


def unused(atoms: Atoms, keys: LabelKeys = DEFAULT_KEYS) -> Unused:
    """What a structure carries and `labels` does not read.

    Args:
        atoms: as read.
        keys: where labels are read.
    """
    results = atoms.calc.results if atoms.calc is not None else {}
    # Results that have the same meaning as those that are read, or belong to them.
    read = {*keys, "energy", "free_energy", "forces"} - {None}
    if keys.virial is None and keys.stress is None:
        read.add("stress")
    found: dict[str, list[str]] = {kind: [] for kind in Unused._fields}
    for place, known in ((atoms.arrays, _KNOWN_ARRAYS), (atoms.info, _KNOWN_INFO), (results, set())):
        for name, value in place.items():
            if name in read or name in known or name.startswith(CALCULATION_PREFIX):
                continue
            found[_looks_like(name, value, len(atoms))].append(str(name))
    return Unused(**{kind: tuple(sorted(set(names))) for kind, names in found.items()})


CALCULATION_PREFIX = "calculation_"
"""Of the info keys that hold what `Calculation` knows, in extended XYZ."""

_KNOWN_ARRAYS = {"positions", "numbers", "masses", "tags", "initial_magmoms", "initial_charges"}
_KNOWN_INFO = {
    *(
        "job",
        "relaxation",
        "traj",
        "trajectory",
        "group",
        "kind",
        "config_type",
        "converged",
        "frame",
        "nframes",
    ),
    *("name", "source", "spacegroup", "unit_cell", "occupancy", "key_value_pairs", "data", "unique_id"),
}


def _looks_like(name: str, value, num_atoms: int) -> str:
    lowered = str(name).lower()
    shape, kind = np.shape(value), np.asarray(value).dtype.kind if not isinstance(value, (str, dict)) else "U"
    size = int(np.prod(shape))
    if kind == "b" and shape[:1] == (num_atoms,):
        return "constraints"
    if kind not in "iuf":
        return "other"
    if shape == (num_atoms, 3) and "force" in lowered:
        return "forces"
    if size in (6, 9) and "virial" in lowered:
        return "virial"
    if size in (6, 9) and "stress" in lowered:
        return "stress"
    return (
        "energy" if size == 1 and re.search(r"energy|enthalpy|toten|^e_?(0|fr|tot|dft)", lowered) else "other"
    )


def possible_forces(atoms: Atoms) -> list[str]:
    """Keys of arrays that look like forces, to name in a message."""
    known = {"positions", "numbers", "momenta", "velocities", "masses", "initial_magmoms", "tags"}
    return sorted(k for k, v in atoms.arrays.items() if k not in known and np.shape(v) == (len(atoms), 3))


def _numbers(atoms: Atoms, results: dict, key: str, sizes: tuple[int, ...]) -> np.ndarray:
    """What stands under a key, as numbers."""
    for place in (atoms.arrays, atoms.info, results):
        if key not in place:
            continue
        try:
            found = np.asarray(place[key], np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{key}, because it holds no numbers") from None
        if found.size not in sizes:
            wanted = " or ".join(map(str, sizes))
            raise ValueError(f"{key}, because it holds {found.size} numbers instead of {wanted}")
        return found
    raise KeyError(key)


def _tensor(values: np.ndarray) -> np.ndarray:
    """(3, 3) of nine numbers, or of six in Voigt's order."""
    return voigt_6_to_full_3x3_stress(values.ravel()) if values.size == 6 else values.reshape(3, 3)


def _fixed_components(constraint, atoms: Atoms) -> tuple[np.ndarray, np.ndarray] | None:
    """Indices and (3,) mask of what a constraint fixes, or None where Cartesian components can't say it."""
    if isinstance(constraint, FixAtoms):
        return np.atleast_1d(constraint.index), np.ones(3, bool)
    if isinstance(constraint, FixCartesian):
        return np.atleast_1d(constraint.index), np.asarray(constraint.mask, bool)
    if isinstance(constraint, FixScaled):
        mask = _outside(atoms.cell.array[~np.asarray(constraint.mask, bool)])
    elif isinstance(constraint, FixedLine):
        mask = _outside(np.reshape(constraint.dir, (1, 3)))
    elif isinstance(constraint, FixedPlane):
        inside = _outside(np.reshape(constraint.dir, (1, 3)))
        mask = None if inside is None else ~inside
    else:
        return None
    return None if mask is None else (np.atleast_1d(constraint.index), mask)


def _outside(directions: np.ndarray) -> np.ndarray | None:
    """(3,) mask of the Cartesian components that stay where an atom moves along given directions alone.

    Args:
        directions: (m, 3), independent.

    Returns:
        None where what the directions span is no axis and no plane of Cartesian axes.
    """
    if not len(directions):
        return np.ones(3, bool)
    touched = np.any(np.abs(directions) > 1e-4 * np.abs(directions).max(initial=0.0), axis=0)
    return ~touched if touched.sum() == len(directions) else None
