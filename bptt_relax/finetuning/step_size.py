"""The step size against the stiffest of the training structures: beyond its limit gradients explode."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from bptt_relax import relax, threads
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

TOLERANCE = 0.02
"""Relative, of the largest eigenvalue."""


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
        largest = max(threads.on_every_core(lambda pair: _largest(predict, theta, pair), pairs))
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


def _largest(predict: PredictMany, theta: Theta, pair: Pair) -> float:
    """Largest eigenvalue of the Hessian of what may move, from differences of forces, eV/angstrom^2."""
    positions, system = np.asarray(pair.relaxed), _at_reference(pair).system
    free = np.asarray(system.free)
    if free.sum() < 2:
        return 0.0

    def forces(x: np.ndarray) -> np.ndarray:
        return predict.one(theta.potential, x.astype(positions.dtype), system).forces.astype(float)[free]

    here = forces(positions)

    def product(v: np.ndarray) -> np.ndarray:
        v = v.ravel()
        moved = positions.astype(float).copy()
        moved[free] += DISPLACEMENT * v / np.linalg.norm(v)
        return (here - forces(moved)) * (np.linalg.norm(v) / DISPLACEMENT)

    size = int(free.sum())
    start = np.random.default_rng(0).normal(size=size)
    operator = LinearOperator((size, size), matvec=product, dtype=float)
    (largest,) = eigsh(operator, k=1, which="LA", v0=start, tol=TOLERANCE, return_eigenvectors=False)
    return float(largest)


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
