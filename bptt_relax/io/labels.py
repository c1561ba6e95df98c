"""Energies, forces and stresses: are they there, do they belong together, are they in our units?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from bptt_relax import units
from bptt_relax.io.atoms import Unused
from bptt_relax.io.options import use
from bptt_relax.io.problems import Problem, describe
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError

_GPA = units.EV_PER_A3_IN_GPA
_RY_PER_BOHR3 = units.RYDBERG / units.BOHR**3

# What a slope of labels against the truth gives away.
FACTORS = {
    "energies in rydberg, or forces in rydberg/angstrom": 1 / units.RYDBERG,
    "energies in hartree, or forces in hartree/angstrom": 1 / units.HARTREE,
    "forces in rydberg/bohr": units.BOHR / units.RYDBERG,
    "forces in hartree/bohr": units.BOHR / units.HARTREE,
    "forces in eV/bohr, or positions in bohr": units.BOHR,
    "energies or forces in kcal/mol": 23.0605,
    "energies or forces in kJ/mol": 96.4853,
    "energies or forces in meV": 1000.0,
    "gradients instead of forces": -1.0,
}
STRESS_FACTORS = {
    f"stresses in {unit}{', of the opposite sign' if sign < 0 else ''}": sign * factor
    for unit, factor in (
        ("eV/angstrom^3", 1.0),
        ("GPa", _GPA),
        ("kbar", 10 * _GPA),
        ("rydberg/bohr^3", 1 / _RY_PER_BOHR3),
        ("hartree/bohr^3", 0.5 / _RY_PER_BOHR3),
    )
    for sign in (1.0, -1.0)
    if (unit, sign) != ("eV/angstrom^3", 1.0)
}

HUGE_STRESS = 0.3
"""eV/angstrom^3, 50 GPa: hardly a stress along a relaxation, but a usual number of GPa or kbar."""


def check(relaxation: Relaxation) -> list[Problem]:
    """What is wrong with the labels of one relaxation, judged by itself.

    Args:
        relaxation: with or without labels.
    """
    source = str(relaxation.info.get("source", relaxation.name))
    return [
        Problem(source, relaxation.name, text, fix, fatal)
        for find in (_incomplete_labels, _unused, _zeroed, _inconsistent, _stresses)
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
            seen = getattr(r.info.get("unused", Unused()), "forces" if wanted == "forces" else "energy")
            key = "forces_key" if wanted == "forces" else "energy_key"
            fix = (
                f"found {', '.join(seen)}: {use(key, seen[0])}" if seen else "leave it out, or drop that loss"
            )
            text = f"{wanted} are needed and missing ({len(without)} of {len(relaxations)} relaxations lack them)"
            problems.append(Problem(str(r.info.get("source", r.name)), r.name, text, fix))
    kinds = {str(r.info.get("energy_kind")): r.name for r in relaxations if r.energies is not None}
    if energies and len(kinds) > 1:
        listed = ", ".join(f"{kind} ({name})" for kind, name in sorted(kinds.items()))
        problems.append(
            Problem(
                "energies",
                "",
                f"different kinds are mixed: {listed}",
                f"set {use('energy_key')}, or split the data",
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


def compare_units(
    reference: np.ndarray, predicted: np.ndarray, factors: Mapping[str, float] = FACTORS
) -> Slope:
    """Guess from a pretrained model's predictions in which units labels are.

    Args:
        reference: labels, any shape: forces, or stresses, or differences of energies along relaxations.
        predicted: the same of a model, in eV and angstrom.
        factors: what a slope may mean; `STRESS_FACTORS` for stresses.
    """
    x, y = np.ravel(predicted), np.ravel(reference)
    scale = float(np.sqrt(np.dot(x, x) * np.dot(y, y)))
    correlation = float(np.dot(x, y) / scale) if scale > 0 else 0.0
    # The ratio of the sizes, with the sign of the correlation, isn't biased by scatter as a fit is.
    slope = (
        float(np.copysign(np.sqrt(np.dot(y, y) / np.dot(x, x)), correlation)) if np.any(x) else float("nan")
    )
    return Slope(slope, correlation, _verdict(slope, factors) if abs(correlation) > 0.5 else None)


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
    """Compare energies with the work of forces, and of stresses where the cell changes, without any model.

    Args:
        relaxation: with energies and forces.

    Returns:
        The ratio, or None where it can't be told: labels missing, or too little work.
    """
    works = _works(relaxation)
    if works is None:
        return None
    work, gain = works.forces + works.stress, works.gain
    # The trapezoidal rule fails on the long first steps down a repulsive wall, and the last steps drown in the
    # noise of the energies: leave out the small ones and take the median of the rest.
    usable = np.abs(work) > 1e-3 * float(np.abs(work).max(initial=0.0))
    usable &= np.abs(gain) > 1e-5
    if usable.sum() < 2:
        return None
    ratios = gain[usable] / work[usable]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return Work(float(middle), float(high - low) / 2, int(usable.sum()))


class _Works(NamedTuple):
    """From each step to the next, eV: energy gained, work of forces, work of stresses (0 in a cell that is given)."""

    gain: np.ndarray
    forces: np.ndarray
    stress: np.ndarray


def _works(r: Relaxation) -> _Works | None:
    if r.energies is None or r.forces is None or len(r.frames) < 3:
        return None
    cells = np.stack([frame.cell for frame in r.frames])
    moves = not np.allclose(cells, cells[0], rtol=0, atol=1e-6)
    if moves and r.stresses is None:
        return None
    middle = 0.5 * (cells[1:] + cells[:-1])
    fractional = np.stack([frame.positions @ np.linalg.inv(frame.cell) for frame in r.frames])
    # What the atoms do besides following the cell.
    moved = np.diff(fractional, axis=0) @ middle
    forces = np.sum(0.5 * (r.forces[1:] + r.forces[:-1]) * moved, axis=(1, 2))
    stress = np.zeros_like(forces)
    if moves:
        assert r.stresses is not None
        strain = np.linalg.solve(middle, np.diff(cells, axis=0))
        mean = 0.5 * (r.stresses[1:] + r.stresses[:-1])
        stress = -np.abs(np.linalg.det(middle)) * np.einsum("tij,tji->t", mean, strain)
    gain = -np.diff(r.energies)
    known = np.isfinite(gain) & np.isfinite(forces) & np.isfinite(stress)
    return _Works(gain[known], forces[known], stress[known])


def wrong_stress(relaxation: Relaxation) -> str | None:
    """What stresses look like that don't belong to the energies gained where the cell changes; None where they do.

    Args:
        relaxation: with energies, forces and stresses.

    Returns:
        unit and sign, or None also where it can't be told.
    """
    works = _works(relaxation)
    if works is None or not np.any(works.stress):
        return None
    # As for `work_ratio`: neither the first steps nor the last.
    size = np.abs(works.gain)
    usable = (size > 1e-3 * float(size.max(initial=0.0))) & (size > 1e-5)

    def missed(factor: float, where: np.ndarray) -> float:
        """Share of a typical step's energy that is not accounted for, if stresses are too large by a factor."""
        left = works.gain - works.forces - works.stress / factor
        return float(np.median(np.abs(left[where]) / size[where]))

    found: dict[str, float] = {}
    for text, factor in STRESS_FACTORS.items():
        # Where it would make a difference.
        telling = usable & (np.abs(works.stress) * max(1.0, 1 / abs(factor)) > 0.3 * size)
        if telling.sum() < 3:
            continue
        as_it_is, corrected = missed(1.0, telling), missed(factor, telling)
        # Strains of some per cent leave a tenth to the rule of integration.
        if as_it_is > 0.2 and corrected < min(0.2, 0.3 * as_it_is):
            found[text] = corrected
    return f"looks like {min(found, key=lambda text: found[text])}" if found else None


def _verdict(slope: float, factors: Mapping[str, float] = FACTORS) -> str | None:
    """What a slope looks like: the nearest known factor within 15%, some lie 6% apart."""
    text, factor = min(factors.items(), key=lambda item: abs(slope / item[1] - 1))
    return f"looks like {text}" if abs(slope / factor - 1) < 0.15 else None


def _incomplete(values: np.ndarray | None) -> bool:
    return values is None or not np.isfinite(values).all()


def _incomplete_labels(r: Relaxation) -> Iterator[tuple[str, str, bool]]:
    """Labels that some steps have and others don't."""
    for what in ("energies", "forces", "stresses"):
        values = getattr(r, what)
        if values is None:
            continue
        without = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if len(without):
            listed = ", ".join(map(str, without[:5])) + (", ..." if len(without) > 5 else "")
            yield f"no {what} at {len(without)} of {len(values)} steps ({listed})", "", False


def _unused(r: Relaxation) -> Iterator[tuple[str, str, bool]]:
    """What the file has and nobody reads."""
    unused: Unused = r.info.get("unused", Unused())
    for kind, present, called in (
        ("energy", r.energies, "energies"),
        ("forces", r.forces, "forces"),
        ("stress", r.stresses, "stresses"),
        ("virial", r.stresses, "stresses"),
    ):
        names = getattr(unused, kind)
        if not names:
            continue
        keys = " or ".join(use(f"{kind}_key", name) for name in names[:3])
        if present is None:
            yield (
                f"no {called} under their usual key, but {', '.join(names)} found and not used",
                f"set {keys}",
                False,
            )
        else:
            yield (
                f"{', '.join(names)} found and not used beside the {called} that are",
                f"if wrong, set {keys}",
                False,
            )
    if unused.constraints:
        text = f"flags {', '.join(unused.constraints)} found and not used"
        yield text, "if they say which atoms are held, call the column move_mask (1: may move)", False
    if unused.other:
        yield f"found and not used: {', '.join(unused.other)}", "", False


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
    # Of a wrong stress more can be said than that the sum is wrong.
    if work is None or wrong_stress(r) is not None or 0.6 < work.ratio < 1.6:
        return
    # A few steps of scattered ratios are bad labels, not another unit.
    alike = work.steps >= 3 and work.spread < 0.2 * abs(work.ratio)
    # The energy gained over the work of the forces is the inverse of how much too large the forces are.
    verdict = (_verdict(1 / work.ratio) or _verdict(work.ratio)) if alike else None
    yield (
        f"energies and forces don't belong together: energy gained over work of the forces is {work.ratio:.3g}"
        + (f", which {verdict}" if verdict else ""),
        f"convert to eV, angstrom, eV/angstrom, or name the right keys ({use('energy_key')}, {use('forces_key')})",
        verdict is not None,
    )


def _stresses(r: Relaxation) -> Iterator[tuple[str, str, bool]]:
    """Stresses in another unit or of another sign."""
    if r.stresses is None:
        return
    verdict = wrong_stress(r)
    if verdict is not None:
        yield (
            f"energies and stresses don't belong together as the cell changes: {verdict}",
            f"convert to eV/angstrom^3, positive if it pulls inward, or name the key ({use('stress_key')}, "
            f"{use('virial_key')})",
            True,
        )
        return
    typical = np.nanmedian(np.abs(r.stresses).max(axis=(1, 2))) if np.isfinite(r.stresses).any() else 0.0
    if typical > HUGE_STRESS:
        yield (
            f"stresses of {typical:.3g} eV/angstrom^3 ({typical * _GPA:.3g} GPa) hardly exist: perhaps in GPa or kbar",
            f"convert to eV/angstrom^3, or name the right key ({use('stress_key')}, {use('virial_key')})",
            False,
        )
