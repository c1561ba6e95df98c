"""The step size against the stiffest of the training structures: beyond its limit gradients explode."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax import relax
from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Scalar
from bptt_relax.analysis import Stability, hessian_extremes, stability
from bptt_relax.batches import PredictMany
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation, Theta, UpdateRule
from bptt_relax.systems import Pair

DISPLACEMENT = 0.01
"""Length of the displacement that forces are differentiated over, angstrom: rounding and curvature of the force both
stay below a hundredth of the largest eigenvalue."""

NUM_PRODUCTS = 12
"""With which the largest eigenvalue is good to some percent."""


def check_step_size(
    potential: Potential, predict: PredictMany, rule: UpdateRule, theta: Theta, pairs: Sequence[Pair]
) -> Stability:
    """Compare the step size with the largest curvature at the reference structures.

    Args:
        potential: the model's functions.
        predict: its predictions.
        rule: update rule.
        theta: the model.
        pairs: whose reference structures are looked at.
    """
    relaxation = relax.relaxation(potential, rule)
    if potential.conservative:
        largest = float(largest_curvatures(predict, theta, pairs).max())
    else:
        extremes = jax.jit(lambda x, system: hessian_extremes(relaxation, theta, x, system, num_products=12))
        largest = max(float(extremes(pair.relaxed, _at_reference(pair).system).largest) for pair in pairs)
    if not largest > 0:
        # Crystals of one atom: there is nothing but the cell, which elsewhere is softer than what binds the atoms.
        of_cell = jax.jit(lambda pair: _cell_curvature(relaxation, theta, pair))
        largest = max(float(of_cell(pair)) for pair in pairs)
    return stability(rule, theta.rule, largest)


def _at_reference(pair: Pair) -> Pair:
    cell = pair.system.cell if pair.relaxed_cell is None else pair.relaxed_cell
    return pair._replace(system=pair.system._replace(cell=cell))


def largest_curvatures(predict: PredictMany, theta: Theta, pairs: Sequence[Pair]) -> np.ndarray:
    """Largest eigenvalue of the Hessian of what may move at each reference structure, eV/angstrom^2; on the host.

    Lanczos (doi:10.6028/jres.045.026) with full orthogonalization, its products being differences of forces; all
    structures take each step together.

    Args:
        predict: predictions of a conservative potential.
        theta: the model.
        pairs: whose reference structures are looked at.
    """
    systems = [_at_reference(pair).system for pair in pairs]
    free = [np.asarray(system.free) for system in systems]
    positions = [np.asarray(pair.relaxed, np.float64) for pair in pairs]
    dtype = np.asarray(pairs[0].relaxed).dtype

    def forces(moved: list[np.ndarray]) -> list[np.ndarray]:
        asked = [(x.astype(dtype), system) for x, system in zip(moved, systems, strict=True)]
        said = predict(theta.potential, asked)
        return [np.asarray(p.forces, np.float64)[may] for p, may in zip(said, free, strict=True)]

    def displaced(directions: list[np.ndarray]) -> list[np.ndarray]:
        moved = [x.copy() for x in positions]
        for x, may, v in zip(moved, free, directions, strict=True):
            x[may] += DISPLACEMENT * v
        return moved

    here = forces(positions)
    rng = np.random.default_rng(0)
    krylov = [_Krylov(rng.normal(size=int(may.sum()))) for may in free]
    for _ in range(NUM_PRODUCTS):
        for space, f0, f1 in zip(krylov, here, forces(displaced([k.direction for k in krylov])), strict=True):
            space.extend((f0 - f1) / DISPLACEMENT)
    return np.array([space.largest() for space in krylov])


class _Krylov:
    """The Krylov space of one symmetric matrix.

    Args:
        start: (n,) vector.
    """

    def __init__(self, start: np.ndarray):
        self.direction = _unit(start)
        self._basis: list[np.ndarray] = []
        self._products: list[np.ndarray] = []

    def extend(self, product: np.ndarray) -> None:
        """Take the product with the latest direction, and choose the next; zero once the space is exhausted."""
        self._basis.append(self.direction)
        self._products.append(product)
        rest = product.copy()
        for _ in range(2):  # once more: rounding
            for vector in self._basis:
                rest -= (vector @ rest) * vector
        exhausted = np.linalg.norm(rest) < 1e-6 * max(np.linalg.norm(product), 1e-30)
        self.direction = np.zeros_like(rest) if exhausted else _unit(rest)

    def largest(self) -> float:
        """Largest eigenvalue of the matrix within the space."""
        basis, products = np.array(self._basis), np.array(self._products)
        projected = basis @ products.T
        return float(np.linalg.eigvalsh(0.5 * (projected + projected.T))[-1]) if basis.size else 0.0


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def _cell_curvature(relaxation: Relaxation, theta: Theta, pair: Pair) -> Scalar:
    """Largest curvature of the energy along the deformation of the reference's cell, eV/angstrom^2.

    Of the atoms as they move with it, in the coordinates of the relaxation (`CELL_FACTOR`): C (V/n)^(1/3), for n atoms
    and elastic constants C.
    """
    system = _at_reference(pair).system

    @full_matmul
    def energy(L: Array) -> Scalar:
        F = jnp.eye(3, dtype=L.dtype) + L + 0.5 * L @ L
        return relaxation.evaluate(theta, pair.relaxed @ F.T, system.cell @ F.T, system).energy

    second = jax.hessian(energy)(jnp.zeros((3, 3), system.cell.dtype)).reshape(9, 9)
    atoms = jnp.sum(system.mask)
    spacing = jnp.cbrt(jnp.abs(jnp.linalg.det(system.cell)) / atoms)
    return jnp.linalg.eigvalsh(second)[-1] / (atoms * spacing**2)
