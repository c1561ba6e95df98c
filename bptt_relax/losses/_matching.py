"""Errors of energies, forces and stresses against labels or against the pretrained model, one value per structure."""

import jax.numpy as jnp

from bptt_relax._types import Array, Forces, Scalar, Stress
from bptt_relax.systems import System
from bptt_relax.trees import safe_norm

PER_ATOM = 2.0
"""1/angstrom. Makes energies and virials per atom count like forces: of a universal potential the first are known to
about 0.03 eV, the last to about 0.07 eV/angstrom."""


def huber(error: Array, delta: float) -> Array:
    """Huber function of each element: quadratic below ``delta``, linear above."""
    size = jnp.abs(error)
    quadratic = jnp.minimum(size, delta)
    return quadratic * (size - 0.5 * quadratic)


def _mean_over_free(x: Array, system: System) -> Scalar:
    free = system.free.astype(x.dtype)
    return jnp.sum(x * free) / jnp.maximum(jnp.sum(free), 1.0)


def force_mse(forces: Forces, reference: Forces, system: System) -> Scalar:
    """Mean squared error per free force component.

    Also the anchor to the pretrained model, with its forces as the reference.

    Args:
        forces: (N, 3) eV/angstrom.
        reference: (N, 3) eV/angstrom.
        system: masks.

    Returns:
        () (eV/angstrom)^2.
    """
    return _mean_over_free((forces - reference) ** 2, system)


def force_mae(forces: Forces, reference: Forces, system: System) -> Scalar:
    """Mean absolute error per free force component, eV/angstrom. Arguments as `force_mse`."""
    return _mean_over_free(jnp.abs(forces - reference), system)


def force_huber(forces: Forces, reference: Forces, system: System, *, delta: float = 0.1) -> Scalar:
    """Huber error per free force component: quadratic below ``delta``, linear above.

    Args:
        forces: (N, 3) eV/angstrom.
        reference: (N, 3) eV/angstrom.
        system: masks.
        delta: eV/angstrom.

    Returns:
        () (eV/angstrom)^2.
    """
    return _mean_over_free(huber(forces - reference, delta), system)


def force_distance(forces: Forces, reference: Forces, system: System, weights: Array | None = None) -> Scalar:
    """Mean over free atoms of the length of the error of the force, not squared: large errors do not dominate.

    Args:
        forces: (N, 3) eV/angstrom.
        reference: (N, 3) eV/angstrom.
        system: masks; held components do not count.
        weights: (N,) of the atoms, as more for those near a defect; 1 each when not given.

    Returns:
        () eV/angstrom.
    """
    lengths = safe_norm(jnp.where(system.free, forces - reference, 0.0))
    counted = jnp.any(system.free, axis=-1).astype(lengths.dtype)
    weighted = lengths if weights is None else weights * lengths
    return jnp.sum(weighted * counted) / jnp.maximum(jnp.sum(counted), 1.0)


def max_force(forces: Forces, system: System) -> Scalar:
    """Largest force on a free atom, eV/angstrom."""
    return jnp.max(safe_norm(jnp.where(system.free, forces, 0.0)))


def energy_mse_per_atom(energy: Scalar, reference: Scalar, system: System) -> Scalar:
    """Squared energy error per atom, (eV/atom)^2. Energies must share one zero: see the per-element shift."""
    return ((energy - reference) / jnp.maximum(jnp.sum(system.mask), 1)) ** 2


def virial_huber(stress: Stress, reference: Stress, system: System, *, delta: float = 0.1) -> Scalar:
    """Huber error per component of the virial per atom, counted like forces (`PER_ATOM`).

    Zero where the structure is not periodic along every axis: its stress has no meaning. Components of the reference
    that are not known (NaN) do not count.

    Args:
        stress: (3, 3) eV/angstrom^3.
        reference: (3, 3) eV/angstrom^3.
        system: cell, pbc, mask.
        delta: where it turns linear, eV/angstrom.

    Returns:
        () (eV/angstrom)^2.
    """
    volume_per_atom = jnp.abs(jnp.linalg.det(system.cell)) / jnp.maximum(jnp.sum(system.mask), 1)
    known = jnp.isfinite(reference)
    error = jnp.where(known, stress - jnp.where(known, reference, 0.0), 0.0)
    value = jnp.mean(huber(PER_ATOM * volume_per_atom * error, delta))
    return jnp.where(jnp.all(system.pbc), value, 0.0)


def stress_mae(stress: Stress, reference: Stress) -> Scalar:
    """Mean absolute error of the components of the stress, eV/angstrom^3.

    Args:
        stress: (3, 3) eV/angstrom^3.
        reference: (3, 3) eV/angstrom^3.
    """
    return jnp.mean(jnp.abs(stress - reference))
