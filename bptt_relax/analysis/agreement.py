"""Labels against a pretrained model: units that are wrong alike everywhere, and data of two methods in one set."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from bptt_relax import neighbors, systems
from bptt_relax._types import Params
from bptt_relax.io import labels
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.potentials import Potential

MOST = 24
"""Relaxations that are looked at, evenly over the data set."""


class Agreement(NamedTuple):
    """How labels go with predictions.

    Attributes:
        sentences: one for each label that could be compared.
        doubts: what is wrong with them, or may be.
    """

    sentences: tuple[str, ...]
    doubts: tuple[str, ...]


def compare_labels(potential: Potential, params: Params, relaxations: Sequence[Relaxation]) -> Agreement:
    """Regress energies, forces and stresses of starts and ends on predictions of a model.

    Energies are compared as differences along each relaxation, which know nothing of reference energies; what is left
    of them at the ends after one constant per element tells methods apart.

    Args:
        potential: the model's functions.
        params: its parameters.
        relaxations: with any labels; those of elements that the model does not cover are passed over.
    """
    covered = [
        r
        for r in relaxations
        if not potential.elements or set(r.initial.species.tolist()) <= set(potential.elements)
    ]
    chosen = (
        [covered[k] for k in np.unique(np.linspace(0, len(covered) - 1, MOST).round().astype(int))]
        if covered
        else []
    )
    if not chosen:
        return Agreement((), (f"{potential.name} covers none of these relaxations: labels are not compared",))
    predicted = predict(potential, params, chosen)
    sentences, doubts = [], []
    for name, factors, pairs in (
        ("energies", labels.FACTORS, _energies(chosen, predicted)),
        ("forces", labels.FACTORS, _values(chosen, predicted, "forces")),
        ("stresses", labels.STRESS_FACTORS, _values(chosen, predicted, "stresses")),
    ):
        if len(pairs[0]) < 3:
            continue
        found = labels.compare_units(*pairs, factors)
        sentences.append(
            f"{name} over those of {potential.name}: {found.slope:.3g}, correlation {found.correlation:.2f}"
        )
        if found.verdict:
            doubts.append(
                f"{name} against {potential.name}: {found.slope:.4g} times as large, which {found.verdict}"
            )
    humped = [
        *_two_methods(potential.name, chosen, predicted),
        *_two_methods_by_forces(potential.name, chosen, predicted),
    ]
    return Agreement(tuple(sentences), (*doubts, *humped))


class Predicted(NamedTuple):
    """Predictions at start and end of one relaxation.

    Attributes:
        energies: (2,) eV, NaN where the potential has none.
        forces: (2, n, 3) eV/angstrom.
        stresses: (2, 3, 3) eV/angstrom^3 with ASE's sign, or None where it has none.
    """

    energies: np.ndarray
    forces: np.ndarray
    stresses: np.ndarray | None


def predict(potential: Potential, params: Params, relaxations: Sequence[Relaxation]) -> list[Predicted]:
    """What a potential says about the starts and ends of relaxations.

    Args:
        potential: its functions.
        params: its parameters.
        relaxations: of elements that it covers.
    """
    structures = [s for r in relaxations for s in (r.initial, r.relaxed)]
    layout = systems.plan_layout(structures, potential.graph)

    @jax.jit
    def apply(positions, system):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        found = potential.apply(params, positions, system, graph)
        return found.energy, found.forces, found.stress

    predictions = []
    for r in relaxations:
        ends = [apply(*systems.prepare(s, potential.graph, layout)) for s in (r.initial, r.relaxed)]
        n = len(r.initial.species)
        energies, forces, stresses = zip(*ends, strict=True)
        predictions.append(
            Predicted(
                np.array([np.nan if e is None else float(e) for e in energies]),
                np.stack([np.asarray(f)[:n] for f in forces]),
                None if stresses[0] is None else np.stack([np.asarray(s) for s in stresses]),
            )
        )
    return predictions


def _ends(values: np.ndarray, start: int) -> np.ndarray:
    return values[[start, -1]]


def _energies(
    relaxations: Sequence[Relaxation], predicted: Sequence[Predicted]
) -> tuple[np.ndarray, np.ndarray]:
    """Energies gained along relaxations: of the labels, of the model."""
    pairs = [
        (r.energies[r.start] - r.energies[-1], p.energies[0] - p.energies[1])
        for r, p in zip(relaxations, predicted, strict=True)
        if r.energies is not None
    ]
    known = np.array([pair for pair in pairs if np.isfinite(pair).all()]).reshape(-1, 2)
    return known[:, 0], known[:, 1]


def _values(
    relaxations: Sequence[Relaxation], predicted: Sequence[Predicted], what: str
) -> tuple[np.ndarray, np.ndarray]:
    reference, of_model = [], []
    for r, p in zip(relaxations, predicted, strict=True):
        labelled, said = getattr(r, what), getattr(p, what)
        if labelled is None or said is None:
            continue
        labelled = _ends(labelled, r.start).ravel()
        known = np.isfinite(labelled)
        reference.append(labelled[known])
        of_model.append(np.asarray(said).ravel()[known])
    if not reference:
        return np.zeros(0), np.zeros(0)
    return np.concatenate(reference), np.concatenate(of_model)


def _two_methods(name: str, relaxations: Sequence[Relaxation], predicted: Sequence[Predicted]) -> list[str]:
    """Where no header says it: residuals with two humps are data of two methods."""
    known = [
        (r, p)
        for r, p in zip(relaxations, predicted, strict=True)
        if r.energies is not None and np.isfinite(r.energies[-1]) and np.isfinite(p.energies[1])
    ]
    if len(known) < 6:
        return []
    reference = np.array([r.energies[-1] for r, _ in known])  # pyright: ignore[reportOptionalSubscript]
    species = [r.relaxed.species for r, _ in known]
    aligned = labels.align_energies(reference, np.array([p.energies[1] for _, p in known]), species)
    counts = [[np.sum(s == z) for z in np.unique(np.concatenate(species))] for s in species]
    shifts = np.array(list(aligned.per_element.values()))
    left = reference - [p.energies[1] for _, p in known] - np.array(counts) @ shifts
    per_atom = left / [len(s) for s in species]
    apart = humps(per_atom)
    if apart is None:
        return []
    of_second = [r.name for (r, _), second in zip(known, per_atom > apart, strict=True) if second]
    listed = ", ".join(of_second[:5]) + (", ..." if len(of_second) > 5 else "")
    return [
        f"energies per atom, less those of {name} and a constant for each element, fall into two groups: perhaps two "
        f"functionals or sets of pseudopotentials in one data set. In the upper group are {listed}"
    ]


def _two_methods_by_forces(
    name: str, relaxations: Sequence[Relaxation], predicted: Sequence[Predicted]
) -> list[str]:
    """The same of forces: how far a model is from the labels of each relaxation, as a ratio of the sizes."""
    told = []
    for r, p in zip(relaxations, predicted, strict=True):
        if r.forces is None:
            continue
        labelled = _ends(r.forces, r.start)
        known = np.isfinite(labelled)
        size = float(np.sqrt(np.mean(labelled[known] ** 2))) if known.any() else 0.0
        # Near a minimum there is nothing to compare.
        if size > 0.05:
            left = float(np.sqrt(np.mean((labelled - p.forces)[known] ** 2)))
            told.append((r.name, np.log10(max(left / size, 1e-4))))
    if len(told) < 6:
        return []
    values = np.array([value for _, value in told])
    apart = humps(values, least=0.3)
    if apart is None:
        return []
    above = [named for (named, _), second in zip(told, values > apart, strict=True) if second]
    listed = ", ".join(above[:5]) + (", ..." if len(above) > 5 else "")
    return [
        f"forces, against those of {name}, fall into two groups: perhaps two functionals, units or sets of "
        f"pseudopotentials in one data set. Further from the model are {listed}"
    ]


def humps(values: np.ndarray, least: float = 1e-3) -> float | None:
    """Where a gap parts values into two groups, each narrow against it; None where there is no such gap.

    Args:
        values: (K,).
        least: a gap that is smaller is none.
    """
    ordered = np.sort(np.asarray(values, float))
    fewest = max(2, len(ordered) // 10)
    if len(ordered) < 2 * fewest + 2:
        return None
    gaps = np.diff(ordered)[fewest - 1 : len(ordered) - fewest]
    at = int(np.argmax(gaps)) + fewest
    low, high = ordered[:at], ordered[at:]
    width = max(float(np.ptp(low)), float(np.ptp(high)))
    return float(0.5 * (low[-1] + high[0])) if gaps.max() > max(2 * width, least) else None
