"""Does a potential keep what a relaxation relies on?

Symmetry, forces that belong to the energy, smoothness at the cutoffs, and neighbor lists that stay exact.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from bptt_relax import neighbors, systems
from bptt_relax._precision import precision
from bptt_relax._types import Params, Positions
from bptt_relax.analysis._check import Check, check, note, to_device, to_host
from bptt_relax.neighbors import Capacity, GraphSpec
from bptt_relax.potentials import Potential
from bptt_relax.systems import System

_TOLERANCE = 1e-8


class _Case(NamedTuple):
    """A structure on the host, without padding."""

    positions: np.ndarray
    system: System


class _Answer(NamedTuple):
    energy: float | None
    forces: np.ndarray
    overflow: bool


AnswerFn = Callable[[_Case], _Answer]


def check_potential(
    potential: Potential, params: Params, positions: Positions, system: System, *, seed: int = 0
) -> tuple[Check, ...]:
    """All checks of one potential on one structure, in double precision; on the host.

    Args:
        potential: the potential.
        params: its parameters.
        positions: (N, 3) angstrom; best not a relaxed structure.
        system: the structure.
        seed: of random displacements and rotations.
    """
    rng = np.random.default_rng(seed)
    host_positions, s, params = to_host((positions, system._replace(candidates=None), params))
    real = s._replace(
        species=s.species[s.mask], masses=s.masses[s.mask], free=s.free[s.mask], mask=s.mask[s.mask]
    )
    case = _Case(host_positions[s.mask], real)
    with precision(double=True):
        answer = _answer(potential, params, case)
        here = answer(case)
        return (
            *_symmetries(answer, case, here, potential.conservative, rng),
            *_energy_and_forces(answer, case, here, potential.conservative, rng),
            *_smoothness(answer, case, potential),
            _stale_neighbors(potential, case, answer, rng),
        )


def _answer(potential: Potential, params: Params, case: _Case) -> AnswerFn:
    """Predictions with neighbors built for each structure; compiled once."""
    params = to_device(params, double=True)
    spec = potential.graph
    capacity = _measure(case, spec, 0.2, headroom=2.0)
    capacity = capacity._replace(candidates=2 * capacity.candidates)

    @jax.jit
    def predict(positions, system):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        prediction = potential.apply(params, positions, system, graph)
        return prediction.energy, prediction.forces, graph.overflow

    def answer(case: _Case) -> _Answer:
        device_positions, system = to_device((case.positions, case.system), double=True)
        if case.system.candidates is None:
            system = systems.with_neighbors(case.positions, system, spec, skin=0.2, capacity=capacity)
        energy, forces, overflow = predict(device_positions, system)
        return _Answer(None if energy is None else float(energy), np.asarray(forces), bool(overflow))

    return answer


def _symmetries(
    answer: AnswerFn, case: _Case, here: _Answer, conservative: bool, rng: np.random.Generator
) -> list[Check]:
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    rotated = answer(_Case(case.positions @ rotation, case.system._replace(cell=case.system.cell @ rotation)))
    shifted = answer(case._replace(positions=case.positions + rng.normal(size=(1, 3))))
    order = rng.permutation(len(case.positions))
    s = case.system
    permuted = answer(
        _Case(
            case.positions[order],
            s._replace(species=s.species[order], masses=s.masses[order], free=s.free[order]),
        )
    )
    energy = "" if here.energy is None else " and of the energy per atom (eV)"
    detail = f"largest difference of forces (eV/A){energy}"
    found = [
        ("rotation", _distance(rotated, here, here.forces @ rotation)),
        ("translation", _distance(shifted, here, here.forces)),
        ("permutation", _distance(permuted, here, here.forces[order])),
    ]
    net = float(np.max(np.abs(np.sum(here.forces, axis=0))))
    if not conservative:
        # A force head may do without: it is the user who must know.
        return [note(name, value, detail) for name, value in found] + [
            note("net force", net, "eV/A; what is not zero drifts: relax.remove_drift")
        ]
    return [check(name, value, _TOLERANCE, detail) for name, value in found] + [
        check("net force", net, _TOLERANCE, "eV/A, largest component")
    ]


def _energy_and_forces(
    answer: AnswerFn, case: _Case, here: _Answer, conservative: bool, rng: np.random.Generator
) -> list[Check]:
    if here.energy is None:
        detail = "no energy: these forces are the gradient of none"
        return [note("energy and forces", np.nan, detail)]
    direction = rng.normal(size=case.positions.shape)
    step = 1e-3
    energies = [
        _energy(answer(case._replace(positions=case.positions + k * step * direction)))
        for k in (-2, -1, 1, 2)
    ]
    slope = (8 * (energies[2] - energies[1]) - (energies[3] - energies[0])) / (12 * step)
    work = -float(np.sum(here.forces * direction))
    error = abs(slope - work) / max(abs(slope), 1e-3)
    detail = f"relative error; -F.d = {work:.9g}, energy difference {slope:.9g}"
    if not conservative:
        return [note("energy and forces", error, detail + "; forces are of a head of their own")]
    return [check("energy and forces", error, 1e-6, detail)]


def _smoothness(answer: AnswerFn, case: _Case, potential: Potential) -> list[Check]:
    """Second difference of the forces as one pair crosses a cutoff: a jump would show undiminished."""
    found = []
    spec = potential.graph
    # Without a graph there is no cutoff to cross.
    cutoffs = {"cutoff": spec.cutoff} if spec.cutoff else {}
    if spec.bond_cutoff not in (0.0, spec.cutoff):
        cutoffs["bond cutoff"] = spec.bond_cutoff
    for name, cutoff in cutoffs.items():
        pair = _nearest_pair(case, cutoff)
        if pair is None:
            continue
        atom, unit, length = pair
        # So small that a kink, which contributes in proportion, is none: that the forces are continuous is what counts.
        epsilon = 1e-6
        crossing = []
        for k in (-3, -1, 1):
            moved = case.positions.copy()
            moved[atom] -= unit * (cutoff + k * epsilon - length)
            crossing.append(answer(case._replace(positions=moved)))
        if any(a.overflow for a in crossing):
            found.append(
                note(f"smooth at the {name}", np.nan, "undecided: too many neighbors where a pair crosses")
            )
            continue
        before, inside, outside = crossing
        jump = np.max(np.abs(outside.forces - 2 * inside.forces + before.forces))
        energy_jump = abs(_energy(outside) - 2 * _energy(inside) + _energy(before))
        detail = f"jump of forces (eV/A) and energy (eV) as a pair crosses {cutoff:.3g} A"
        found.append(check(f"smooth at the {name}", max(jump, energy_jump), 1e-4, detail))
    return found


def _nearest_pair(case: _Case, cutoff: float) -> tuple[int, np.ndarray, float] | None:
    """An atom, the unit vector to a neighbor whose distance is closest to the cutoff, and that distance."""
    cell = np.asarray(case.system.cell)
    i, j, S = neighbors.find_pairs(case.positions, cell, np.asarray(case.system.pbc), cutoff + 1.0)
    keep = i != j
    if not np.any(keep):
        return None
    i, j, S = i[keep], j[keep], S[keep]
    vectors = case.positions[j] + S @ cell - case.positions[i]
    lengths = np.linalg.norm(vectors, axis=1)
    k = int(np.argmin(np.abs(lengths - cutoff)))
    return int(i[k]), vectors[k] / lengths[k], float(lengths[k])


def _stale_neighbors(potential: Potential, case: _Case, answer: AnswerFn, rng: np.random.Generator) -> Check:
    """Forces with a list built before the atoms moved, against those with a fresh one."""
    skin = 0.8
    moved = rng.normal(size=case.positions.shape)
    moved = case.positions + 0.45 * skin * moved / np.max(np.linalg.norm(moved, axis=1))
    there = _Case(moved, case.system)
    capacity = neighbors.common_capacity([_measure(c, potential.graph, skin) for c in (case, there)])
    system = to_device(case.system, double=True)
    old = systems.with_neighbors(case.positions, system, potential.graph, skin=skin, capacity=capacity)
    stale = answer(there._replace(system=old))
    fresh = answer(there)
    detail = f"largest difference of forces (eV/A) between a list with a skin of {skin} A and a fresh one"
    if stale.overflow:
        return note("stale neighbors", np.nan, "the list reported itself stale before its skin was used up")
    return check("stale neighbors", _distance(stale, fresh, fresh.forces), _TOLERANCE, detail)


def _measure(case: _Case, spec: GraphSpec, skin: float, headroom: float = 1.0) -> Capacity:
    cell, pbc = np.asarray(case.system.cell), np.asarray(case.system.pbc)
    return neighbors.measure(case.positions, cell, pbc, spec, skin, headroom=headroom)


def _distance(answer: _Answer, reference: _Answer, forces: np.ndarray) -> float:
    if answer.overflow or reference.overflow:
        return float("nan")
    energy = abs(_energy(answer) - _energy(reference)) / len(forces)
    return float(max(np.max(np.abs(answer.forces - forces)), energy))


def _energy(answer: _Answer) -> float:
    """The energy, eV; zero where there is none, so that differences are those of the forces alone."""
    return 0.0 if answer.energy is None else answer.energy
