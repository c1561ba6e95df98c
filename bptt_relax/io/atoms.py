"""ASE's Atoms to our structures and back."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, FixScaled
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


DEFAULT_KEYS = LabelKeys()


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
    """Names of the constraints that `free_components` can't express."""
    return sorted({type(c).__name__ for c in atoms.constraints if _fixed_components(c, atoms) is None})


def labels(atoms: Atoms, keys: LabelKeys = DEFAULT_KEYS) -> Labels:
    """Energy, forces and stress as the file has them.

    Args:
        atoms: as read, with or without a calculator.
        keys: where to look instead.

    Raises:
        KeyError: a given key is not there.
        ValueError: what stands under a key has the wrong shape.
    """
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    if keys.energy is not None:
        energy, energy_kind = float(_lookup(atoms, results, keys.energy)), keys.energy
    elif "free_energy" in results:
        energy, energy_kind = float(results["free_energy"]), "free"
    else:
        energy, energy_kind = results.get("energy"), "total"
    forces = results.get("forces") if keys.forces is None else _lookup(atoms, results, keys.forces)
    stress = results.get("stress") if keys.stress is None else _lookup(atoms, results, keys.stress)
    if forces is not None:
        forces = np.asarray(forces, np.float64).reshape(len(atoms), 3)
    if stress is not None:
        stress = np.asarray(stress, np.float64)
        stress = voigt_6_to_full_3x3_stress(stress) if stress.size == 6 else stress.reshape(3, 3)
    return Labels(
        None if energy is None else float(energy), forces, stress, None if energy is None else energy_kind
    )


def possible_forces(atoms: Atoms) -> list[str]:
    """Keys of arrays that look like forces, to name in a message."""
    known = {"positions", "numbers", "momenta", "velocities", "masses", "initial_magmoms", "tags"}
    return sorted(k for k, v in atoms.arrays.items() if k not in known and np.shape(v) == (len(atoms), 3))


def _lookup(atoms: Atoms, results: dict, key: str):
    for place in (atoms.arrays, atoms.info, results):
        if key in place:
            return place[key]
    raise KeyError(key)


def _fixed_components(constraint, atoms: Atoms) -> tuple[np.ndarray, np.ndarray] | None:
    """Indices and (3,) mask of what a constraint fixes, or None where Cartesian components can't say it."""
    if isinstance(constraint, FixAtoms):
        return np.atleast_1d(constraint.index), np.ones(3, bool)
    if isinstance(constraint, FixCartesian):
        return np.atleast_1d(constraint.index), np.asarray(constraint.mask, bool)
    if isinstance(constraint, FixScaled):
        mask = np.asarray(constraint.mask, bool)
        cell = atoms.cell.array
        along_axes = np.allclose(cell, np.diag(np.diag(cell)), atol=1e-6 * np.abs(cell).max())
        if mask.all() or along_axes:
            return np.atleast_1d(constraint.index), mask
    return None
