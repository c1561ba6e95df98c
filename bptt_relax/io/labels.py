"""Energies and forces: are they there, do they belong together, are they in our units?"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from bptt_relax import units
from bptt_relax.io.problems import Problem, describe
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError

# What a slope of labels against the truth gives away.
_FACTORS = {
    "energies in rydberg, or forces in rydberg/angstrom": 1 / units.RYDBERG,
    "energies in hartree, or forces in hartree/angstrom": 1 / units.HARTREE,
    "forces in rydberg/bohr": units.BOHR / units.RYDBERG,
    "forces in hartree/bohr": units.BOHR / units.HARTREE,
    "forces in eV/bohr, or positions in bohr": units.BOHR,
    "energies or forces in kcal/mol": 23.0605,
    "energies or forces in kJ/mol": 96.4853,
    "energies or forces in meV": 1000.0,
    "stress in GPa": units.EV_PER_A3_IN_GPA,
    "stress in kbar": 10 * units.EV_PER_A3_IN_GPA,
    "gradients instead of forces, or a stress of the opposite sign": -1.0,
    "stress in kbar of the opposite sign": -10 * units.EV_PER_A3_IN_GPA,
}


def check(relaxation: Relaxation) -> list[Problem]:
    """What is wrong with the labels of one relaxation, judged by itself.

    Args:
        relaxation: with or without labels.
    """
    source = str(relaxation.info.get("source", relaxation.name))
    return [
        Problem(source, relaxation.name, text, fix, fatal)
        for find in (_missing, _zeroed, _inconsistent)
        for text, fix, fatal in find(relaxation)
    ]


def require(relaxations: Sequence[Relaxation], *, energies: bool = False, forces: bool = False) -> None:
    """Refuse relaxations without the labels that a loss needs.

    Args:
        relaxations: to train on.
        energies: every step needs one, all of one kind.
        forces: every step needs them.

    Raises:
        InputError: labels are missing, or energies of different kinds are mixed.
    """
    problems = []
    for wanted, values in (("energies", energies), ("forces", forces)):
        if not values:
            continue
        without = [r for r in relaxations if _incomplete(getattr(r, wanted))]
        for r in without:
            seen = r.info.get("possible_forces") if wanted == "forces" else None
            fix = (
                f"found arrays {', '.join(seen)}: set forces_key"
                if seen
                else "leave it out, or drop that loss"
            )
            text = f"{wanted} are needed and missing ({len(without)} of {len(relaxations)} relaxations lack them)"
            problems.append(Problem(str(r.info.get("source", r.name)), r.name, text, fix))
    kinds = {str(r.info.get("energy_kind")): r.name for r in relaxations if r.energies is not None}
    if energies and len(kinds) > 1:
        listed = ", ".join(f"{kind} ({name})" for kind, name in sorted(kinds.items()))
        problems.append(
            Problem(
                "energies", "", f"different kinds are mixed: {listed}", "set energy_key, or split the data"
            )
        )
    if problems:
        raise InputError(describe(problems, "labels are not fit for this loss"))


class Slope(NamedTuple):
    """Labels regressed on predictions.

    Attributes:
        slope: labels over predictions; about 1 where the units agree.
        correlation: between -1 and 1; below about 0.5 in size a slope says nothing.
        verdict: what the slope looks like, or None.
    """

    slope: float
    correlation: float
    verdict: str | None


def compare_units(reference: np.ndarray, predicted: np.ndarray) -> Slope:
    """Guess from a pretrained model's predictions in which units labels are.

    Args:
        reference: labels, any shape: forces, or stresses, or differences of energies along relaxations.
        predicted: the same of a model, in eV and angstrom.
    """
    x, y = np.ravel(predicted), np.ravel(reference)
    scale = float(np.sqrt(np.dot(x, x) * np.dot(y, y)))
    correlation = float(np.dot(x, y) / scale) if scale > 0 else 0.0
    # The ratio of the sizes, with the sign of the correlation, isn't biased by scatter as a fit is.
    slope = (
        float(np.copysign(np.sqrt(np.dot(y, y) / np.dot(x, x)), correlation)) if np.any(x) else float("nan")
    )
    return Slope(slope, correlation, _verdict(slope) if abs(correlation) > 0.5 else None)


class Shifts(NamedTuple):
    """Reference energies of the elements that bring two sets of energies together.

    Attributes:
        per_element: eV per atom to subtract from the labels, by symbol.
        residual: root mean square of what is left, eV per atom.
        outliers: indices of structures whose residual stands apart from the others': another functional?
    """

    per_element: dict[str, float]
    residual: float
    outliers: tuple[int, ...]


def align_energies(reference: np.ndarray, predicted: np.ndarray, species: Sequence[np.ndarray]) -> Shifts:
    """Fit one constant per element between labels and predictions (another code, another pseudopotential).

    Args:
        reference: (K,) eV.
        predicted: (K,) eV.
        species: K arrays of atomic numbers.
    """
    numbers = np.unique(np.concatenate(species))
    counts = np.stack([[np.sum(s == z) for z in numbers] for s in species]).astype(float)
    sizes = counts.sum(axis=1)
    difference = np.asarray(reference) - np.asarray(predicted)
    # Per atom, so that large cells don't decide alone; the smallest solution where elements never vary alone.
    shifts, *_ = np.linalg.lstsq(counts / sizes[:, None], difference / sizes, rcond=None)
    left = (difference - counts @ shifts) / sizes
    deviation = np.abs(left - np.median(left))
    typical = max(float(np.median(deviation)), 1e-3)
    return Shifts(
        {chemical_symbols[z]: float(e) for z, e in zip(numbers, shifts, strict=True)},
        float(np.sqrt(np.mean(left**2))),
        tuple(int(k) for k in np.flatnonzero(deviation > 10 * typical)),
    )


class Work(NamedTuple):
    """Energy gained along a relaxation over the work its forces do.

    Attributes:
        ratio: median over the steps; 1 where units and signs belong together.
        spread: half the distance between the quartiles; a wrong unit is wrong alike at every step.
        steps: how many could be used.
    """

    ratio: float
    spread: float
    steps: int


def work_ratio(relaxation: Relaxation) -> Work | None:
    """Compare energies with forces along a relaxation, without any model.

    Args:
        relaxation: with energies and forces.

    Returns:
        The ratio, or None where it can't be told: labels missing, a cell that changes, or too little work.
    """
    r = relaxation
    if r.energies is None or r.forces is None or len(r.frames) < 3:
        return None
    if not np.allclose(r.frames[0].cell, r.relaxed.cell, rtol=0, atol=1e-6):
        return None
    positions = np.stack([frame.positions for frame in r.frames])
    work = np.sum(0.5 * (r.forces[1:] + r.forces[:-1]) * np.diff(positions, axis=0), axis=(1, 2))
    gain = -np.diff(r.energies)
    usable = np.isfinite(work) & np.isfinite(gain)
    # The trapezoidal rule fails on the long first steps down a repulsive wall, and the last steps drown in the
    # noise of the energies: leave out the small ones and take the median of the rest.
    usable &= np.abs(work) > 1e-3 * float(np.abs(work[usable]).max(initial=0.0))
    usable &= np.abs(gain) > 1e-5
    if usable.sum() < 2:
        return None
    ratios = gain[usable] / work[usable]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return Work(float(middle), float(high - low) / 2, int(usable.sum()))


def _verdict(slope: float) -> str | None:
    """What a slope looks like: the nearest known factor within 15%, some lie 6% apart."""
    text, factor = min(_FACTORS.items(), key=lambda item: abs(slope / item[1] - 1))
    return f"looks like {text}" if abs(slope / factor - 1) < 0.15 else None


def _incomplete(values: np.ndarray | None) -> bool:
    return values is None or not np.isfinite(values).all()


def _missing(r: Relaxation) -> Iterator[tuple[str, str, bool]]:
    seen = r.info.get("possible_forces")
    if r.forces is None and seen:
        yield f"no forces under their usual key, but found arrays {', '.join(seen)}", "set forces_key", False


def _zeroed(r: Relaxation) -> Iterator[tuple[str, str, bool]]:
    """Forces that a writer set to zero because of a constraint it didn't write."""
    if r.forces is None or len(r.frames) < 2:
        return
    zero = np.all(r.forces == 0.0, axis=(0, 2))
    still = np.all([frame.positions == r.frames[0].positions for frame in r.frames], axis=(0, 2))
    hidden = zero & still & r.initial.free.all(axis=1)
    if hidden.any() and not hidden.all():
        listed = ", ".join(map(str, np.flatnonzero(hidden)[:5]))
        yield (
            f"{hidden.sum()} atoms ({listed}) never move and have exactly zero force at every step",
            "if they were held fixed, write the constraint into the file",
            False,
        )


def _inconsistent(r: Relaxation) -> Iterator[tuple[str, str, bool]]:
    work = work_ratio(r)
    if work is None or 0.6 < work.ratio < 1.6:
        return
    # A few steps of scattered ratios are bad labels, not another unit.
    alike = work.steps >= 3 and work.spread < 0.2 * abs(work.ratio)
    # The energy gained over the work of the forces is the inverse of how much too large the forces are.
    verdict = (_verdict(1 / work.ratio) or _verdict(work.ratio)) if alike else None
    yield (
        f"energies and forces don't belong together: energy gained over work of the forces is {work.ratio:.3g}"
        + (f", which {verdict}" if verdict else ""),
        "convert to eV, angstrom, eV/angstrom, or name the right keys (energy_key, forces_key)",
        verdict is not None,
    )
