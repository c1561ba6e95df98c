"""Distances between a relaxed structure and its reference, one value per structure."""

import jax.numpy as jnp

from bptt_relax._types import Displacement, Positions, Scalar
from bptt_relax.systems import System, wrap_nearest
from bptt_relax.trees import safe_norm, safe_sqrt


def displacement(positions: Positions, reference: Positions, system: System) -> Displacement:
    """Index-matched minimum-image displacement with the rigid drift removed.

    Drift is the mean over the atoms; where any component of a real atom is held fixed the frame is given and
    nothing is removed. Held components and padded atoms are zero.

    Args:
        positions: (N, 3) angstrom.
        reference: (N, 3) angstrom.
        system: cell, pbc, mask, free.

    Returns:
        (N, 3) angstrom, positions minus reference.
    """
    unconstrained = jnp.all(system.free | ~system.mask[:, None])
    moved = positions - reference
    # Seen from one of its own atoms a structure that drifted far still has small displacements, so every atom gets
    # the right image; the offset leaves with the drift.
    anchor = moved[jnp.argmax(system.mask)][None, :]
    d = wrap_nearest(moved - jnp.where(unconstrained, anchor, 0.0), system.cell, system.pbc)
    d = jnp.where(system.mask[:, None], d, 0.0)
    drift = jnp.sum(d, axis=0, keepdims=True) / jnp.maximum(jnp.sum(system.mask), 1)
    return jnp.where(system.free, d - jnp.where(unconstrained, drift, 0.0), 0.0)


def delta_q(positions: Positions, reference: Positions, system: System) -> Scalar:
    """Mass-weighted distance Delta Q = sqrt(sum_j m_j |x_j - x*_j|^2), the loss of arXiv:2512.01067.

    Args:
        positions: (N, 3) angstrom.
        reference: (N, 3) angstrom.
        system: cell, pbc, masses, masks.

    Returns:
        () sqrt(u) * angstrom; its gradient at zero distance is zero.
    """
    d = displacement(positions, reference, system)
    return safe_sqrt(jnp.sum(system.masses[:, None] * d**2))


def rmsd(positions: Positions, reference: Positions, system: System) -> Scalar:
    """Root mean square displacement per atom, angstrom. Arguments as `delta_q`."""
    d = displacement(positions, reference, system)
    return safe_sqrt(jnp.sum(d**2) / jnp.maximum(jnp.sum(system.mask), 1))


def max_displacement(positions: Positions, reference: Positions, system: System) -> Scalar:
    """Largest displacement of an atom, angstrom; below 0.25 counts as the same basin. Arguments as `delta_q`."""
    return jnp.max(safe_norm(displacement(positions, reference, system)))


def pseudo_huber(distance: Scalar, scale: float) -> Scalar:
    """sqrt(distance^2 + scale^2) - scale: quadratic well below ``scale``, the distance itself well above.

    The gradient of a plain distance has the same size however small the distance is, so structures that are
    nearly right pull as hard as those that are wrong. Softened, they let go.

    Args:
        distance: (), not negative.
        scale: in the units of the distance; 0 gives the distance back.
    """
    return safe_sqrt(distance**2 + scale**2) - scale
