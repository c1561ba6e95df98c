"""A potential of the user's own, checked in seconds before it is used: forces and stress belong to its energy."""

from collections.abc import Sequence

import jax
import numpy as np

from bptt_relax import neighbors, systems
from bptt_relax._precision import precision
from bptt_relax._types import Params
from bptt_relax.analysis._check import to_device
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential
from bptt_relax.systems import Structure
from bptt_relax.units import EV_PER_A3_IN_GPA

TOLERANCE = 3e-3
"""Relative; a mistake is larger, and single precision inside of a potential makes less of a difference."""

STEP = 5e-3
"""Of differences of fourth order: angstrom along forces, and a tenth of it in strain."""


def require_consistent(potential: Potential, params: Params, structures: Sequence[Structure]) -> None:
    """Refuse a potential whose forces or stress are not derivatives of its energy, or that knows a direction in space.

    Looked at on the smallest structure, moved off its place, in double precision. Where forces are of a head of their
    own, as the potential says, nothing is looked at but that they are finite.

    Args:
        potential: the potential.
        params: its parameters.
        structures: that it will be used for.

    Raises:
        InputError: with both numbers.
    """
    if not structures:
        return
    smallest = min(structures, key=lambda structure: len(structure.species))
    rng = np.random.default_rng(0)
    shear = 0.01 * rng.normal(size=(3, 3)) * np.outer(smallest.pbc, smallest.pbc)
    start = _strained(smallest, 0.5 * (shear + shear.T))
    start = start._replace(positions=start.positions + 0.05 * rng.normal(size=start.positions.shape))
    where = f"{potential.name} on {smallest.name}, moved a little"
    with precision(double=True):
        _check(potential, params, start, where, rng)


def _check(
    potential: Potential, params: Params, start: Structure, where: str, rng: np.random.Generator
) -> None:
    params = to_device(params, double=True)
    layout = systems.plan_layout([start], potential.graph, skin=0.2, headroom=1.5)

    @jax.jit
    def predict(params, positions, system):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        return potential.apply(params, positions, system, graph)

    def ask(structure: Structure):
        found = predict(params, *systems.prepare(structure, potential.graph, layout, skin=0.2))
        return found._replace(forces=np.asarray(found.forces)[: len(structure.species)])

    def slope(change) -> float:
        below2, below, above, above2 = (float(ask(change(k * STEP)).energy) for k in (-2, -1, 1, 2))
        return (8 * (above - below) - (above2 - below2)) / (12 * STEP)

    here = ask(start)
    if not np.all(np.isfinite(here.forces)) or (here.energy is not None and not np.isfinite(here.energy)):
        raise InputError(f"{where}: energy or forces are not finite; is the cell smaller than it can take?")
    if not potential.conservative or here.energy is None:
        return
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    turned = ask(start._replace(positions=start.positions @ rotation, cell=start.cell @ rotation))
    size = max(float(np.max(np.abs(here.forces))), 1e-2)
    off = float(np.max(np.abs(turned.forces - here.forces @ rotation)))
    if off > TOLERANCE * size:
        raise InputError(
            f"{where}: turned in space, its forces differ by {off:.3g} eV/A of {size:.3g}: it must see distances and "
            "directions between atoms alone"
        )
    # Along the forces, where the energy changes most, and a little aside.
    direction = here.forces / np.linalg.norm(here.forces) + _unit(rng.normal(size=here.forces.shape))
    _compare(
        slope(lambda by: start._replace(positions=start.positions + by * direction)),
        -float(np.sum(here.forces * direction)),
        1e-3 * size,
        f"{where}: its forces are not minus the gradient of its energy",
        "eV/A along one direction",
        1.0,
    )
    if here.stress is None or not np.all(start.pbc):
        return
    stress = np.asarray(here.stress)
    strain = 0.1 * (_unit(stress) + _unit((aside := rng.normal(size=(3, 3))) + aside.T))
    volume = abs(np.linalg.det(start.cell))
    _compare(
        slope(lambda by: _strained(start, by * strain)) / volume,
        float(np.sum(stress * strain)),
        1e-6,
        f"{where}: its stress is not the derivative of its energy by strain over the volume",
        "GPa along one strain (tensile positive)",
        EV_PER_A3_IN_GPA / 0.1,
    )


def _compare(found: float, said: float, floor: float, what: str, unit: str, factor: float) -> None:
    if abs(found - said) <= TOLERANCE * max(abs(found), floor):
        return
    raise InputError(
        f"{what}: it says {factor * said:.6g}, and differences of the energy {factor * found:.6g} {unit}. Check units, "
        "signs and what is not differentiated; bptt_relax.conformance tests all of it, and potentials.direct takes "
        "forces that are a head of their own"
    )


def _unit(array: np.ndarray) -> np.ndarray:
    return array / max(float(np.linalg.norm(array)), 1e-12)


def _strained(structure: Structure, strain: np.ndarray) -> Structure:
    stretch = np.eye(3) + strain
    return structure._replace(positions=structure.positions @ stretch, cell=structure.cell @ stretch)
