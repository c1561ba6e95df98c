"""Point defects in a supercell of any host, named as in Kröger-Vink notation: what sits, and where.

========================  ==================================================================
``V_Si``                  vacancy on a silicon site
``P_Si``                  phosphorus on a silicon site
``Al_i``                  aluminum in one of the widest voids
``O_bc_Si``               oxygen between a silicon atom and a neighbor
``B_split110_Si``         boron and a silicon atom sharing a site, along [110] of the cubic axes
``V_Si+P_Si``             complexes: every further part on the site nearest to the first
``bulk``                  no defect
========================  ==================================================================
"""

import re

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from bptt_relax.outcomes import InputError

NEIGHBOR = 1.2
"""A neighbor is closer than this times the sum of covalent radii."""
SPREAD = 0.03
"""Voids whose width differs by less, relative, are equally wide."""
_SITE = re.compile(r"(?P<what>V|[A-Z][a-z]?)_(?:(?P<how>bc|split(?P<axis>\d{3}))_)?(?P<site>[A-Z][a-z]?|i)")


def create(host: Atoms, defect: str, rng: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    """Put a defect into a host at a random one of its sites and orientations.

    Args:
        host: periodic supercell.
        defect: see the table above.
        rng: draws the site and the orientation.

    Returns:
        The defective cell, and the defect's center, (3,) angstrom.

    Raises:
        InputError: the name follows no rule, an element doesn't exist, or the host has no such site.
    """
    atoms = host.copy()
    if defect == "bulk":
        return atoms, atoms.positions[int(rng.integers(len(atoms)))].copy()
    center: np.ndarray | None = None
    removed: list[int] = []
    touched: set[int] = set()
    for part in defect.split("+"):
        what, how, axis, site = parse(part)
        if site == "i":
            center = _in_void(atoms, host, what, center, rng)
            continue
        index = _choose(host, site, touched, center, defect, rng)
        touched.add(index)
        here = host.positions[index].copy()
        center = here if center is None else center
        if what == "V":
            removed.append(index)
        elif how == "bc":
            _between(atoms, host, index, what, rng)
        elif how is not None:
            _split(atoms, index, what, axis, rng)
        else:
            atoms.symbols[index] = what
    assert center is not None
    del atoms[removed]
    return atoms, center


def parse(part: str) -> tuple[str, str | None, str | None, str]:
    """What sits there, how, along which axis, on which site.

    Raises:
        InputError: the name follows no rule, or an element doesn't exist.
    """
    found = _SITE.fullmatch(part)
    elements = {found["what"], found["site"]} - {"V", "i"} if found else set()
    if (
        not found
        or not elements <= set(atomic_numbers)
        or (found["what"] == "V" and (found["how"] or not elements))
    ):
        raise InputError(
            f"no defect {part!r}; write it as V_Si, P_Si, Al_i, O_bc_Si, B_split110_Si, join parts with +, or bulk"
        )
    return found["what"], found["how"], found["axis"], found["site"]


def _choose(host: Atoms, site: str, taken: set[int], center, defect: str, rng: np.random.Generator) -> int:
    """A random site of the element, or the nearest to the center of what is there already."""
    allowed = [i for i in np.flatnonzero(np.asarray(host.symbols) == site) if i not in taken]
    if not allowed:
        raise InputError(f"defect {defect}: the host {host.symbols} has no {site} site left")
    if center is None:
        return int(rng.choice(allowed))
    away = np.linalg.norm(_nearest_image(host, host.positions[allowed] - center), axis=1)
    nearest = np.flatnonzero(away < away.min() + 0.1)
    return int(allowed[int(rng.choice(nearest))])


def _in_void(atoms: Atoms, host: Atoms, what: str, center, rng: np.random.Generator) -> np.ndarray:
    voids, widths = voids_of(host)
    if center is not None:
        voids = voids[np.argsort(np.linalg.norm(_nearest_image(host, voids - center), axis=1))][:1]
    else:
        voids = voids[widths > (1 - SPREAD) * widths.max()]
    place = voids[int(rng.integers(len(voids)))]
    atoms += Atoms(what, [place])
    return place if center is None else center


def voids_of(host: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Places that are locally furthest from all atoms: the corners of the Voronoi cells.

    Args:
        host: periodic.

    Returns:
        (n, 3) places inside the cell and (n,) their distances to the nearest atoms, angstrom.
    """
    from scipy.spatial import Voronoi

    cell = host.cell.array
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ cell
    points = (host.get_positions(wrap=True)[None] + shifts[:, None]).reshape(-1, 3)
    corners = Voronoi(points).vertices
    fractional = corners @ np.linalg.inv(cell)
    # Half-open, with room for rounding: a void on the border of the cell is counted once.
    inside = corners[np.all((fractional > -1e-6) & (fractional < 1 - 1e-6), axis=1)]
    widths = np.array([np.linalg.norm(points - corner, axis=1).min() for corner in inside])
    return inside, widths


def _between(atoms: Atoms, host: Atoms, index: int, what: str, rng: np.random.Generator) -> None:
    """A bond-centered interstitial: the two atoms give way, the guest buckles off the axis."""
    bond, other = _random_bond(host, index, rng)
    along = bond / np.linalg.norm(bond)
    need = covalent_radii[atomic_numbers[what]] + covalent_radii[host.numbers[index]]
    give = max(0.0, 0.8 * need - 0.5 * np.linalg.norm(bond))
    across = np.cross(along, rng.normal(size=3))
    middle = host.positions[index] + 0.5 * bond
    atoms.positions[index] -= give * along
    atoms.positions[other] += give * along
    atoms += Atoms(what, [middle + 0.25 * across / np.linalg.norm(across)])


def _split(atoms: Atoms, index: int, what: str, axis: str | None, rng: np.random.Generator) -> None:
    """Two atoms share a site, along a random one of the equivalent directions."""
    direction = np.array([int(digit) for digit in axis or "110"], float)
    direction = rng.permutation(direction) * rng.choice([-1.0, 1.0], size=3)
    direction /= np.linalg.norm(direction)
    apart = covalent_radii[atomic_numbers[what]] + covalent_radii[atoms.numbers[index]]
    place = atoms.positions[index].copy()
    atoms.positions[index] = place + 0.5 * apart * direction
    atoms += Atoms(what, [place - 0.5 * apart * direction])


def _random_bond(host: Atoms, index: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    vectors = _nearest_image(host, host.positions - host.positions[index])
    lengths = np.linalg.norm(vectors, axis=1)
    lengths[index] = np.inf
    radii = covalent_radii[host.numbers] + covalent_radii[host.numbers[index]]
    bonded = np.flatnonzero(lengths < NEIGHBOR * radii)
    other = int(rng.choice(bonded)) if len(bonded) else int(lengths.argmin())
    return vectors[other], other


def _nearest_image(host: Atoms, vectors: np.ndarray) -> np.ndarray:
    from ase.geometry import find_mic

    return find_mic(vectors, host.cell, pbc=True)[0]
