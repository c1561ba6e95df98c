"""Products with the Hessian of a structure, without the directions in which it is rigid."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Cell, Displacement, Forces, Positions
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import System

ProductFn = Callable[[Displacement], Forces]


class Curvature(NamedTuple):
    """The negative Jacobian of the forces at a structure, A = -dF/dx: the Hessian where forces are conservative.

    Made of functions, so it lives inside one trace.

    Attributes:
        forces: (N, 3) eV/angstrom.
        overflow: () bool, the neighbors could not be trusted.
        product: v (N, 3) -> P A P v, eV/angstrom for v in angstrom.
        transposed: v (N, 3) -> P A^T P v.
        project: v (N, 3) -> P v: free components only, rigid motions removed.
    """

    forces: Forces
    overflow: Array
    product: ProductFn
    transposed: ProductFn
    project: Callable[[Array], Array]


def curvature(
    relaxation: Relaxation,
    theta: Theta,
    positions: Positions,
    cell: Cell,
    system: System,
    *,
    remove_rigid: bool = True,
) -> Curvature:
    """Linearize the forces once; each product then costs about one evaluation of the forces.

    Args:
        relaxation: gives the forces.
        theta: parameters.
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom.
        system: masks, neighbors.
        remove_rigid: project out rigid motions (`rigid_modes`); translations only where forces are not conservative,
            for such forces may have a torque.
    """

    def forces_of(x: Positions) -> tuple[Forces, Array]:
        here = relaxation.evaluate(theta, x, cell, system)
        return here.forces, here.overflow

    modes = rigid_modes(positions, cell, system, rotations=relaxation.conservative)

    def project(v: Array) -> Array:
        v = jnp.where(system.free, v, 0.0)
        return _remove(modes, v) if remove_rigid else v

    forces, pull, overflow = jax.vjp(forces_of, positions, has_aux=True)

    def transposed(v: Displacement) -> Forces:
        return project(-pull(project(v))[0])

    if relaxation.conservative:
        # Symmetric: forward mode is the cheaper of two equal products.
        forces, push, overflow = jax.linearize(forces_of, positions, has_aux=True)

        def symmetric(v: Displacement) -> Forces:
            return project(-push(project(v)))

        return Curvature(forces, overflow, symmetric, symmetric, project)

    def product(v: Displacement) -> Forces:
        return project(-jax.jvp(lambda x: forces_of(x)[0], (positions,), (project(v),))[1])

    return Curvature(forces, overflow, product, transposed, project)


def rigid_modes(positions: Positions, cell: Cell, system: System, *, rotations: bool = True) -> Array:
    """Directions in which a structure moves without changing its energy, not orthogonal, some of them zero.

    A translation along each axis in which no atom is held. Where nothing is held at all, the rotations that leave
    every periodic lattice vector where it is: three for a cluster, one for a wire, none otherwise.

    Args:
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom.
        system: mask, free, pbc.
        rotations: include them.

    Returns:
        (6, N, 3)
    """
    dtype, shape = positions.dtype, positions.shape
    real = system.mask[:, None].astype(dtype)
    free = jnp.all(system.free | ~system.mask[:, None], axis=0)
    translations = [real * jnp.broadcast_to(axis, shape) for axis in jnp.diag(free.astype(dtype))]
    center = jnp.sum(real * positions, axis=0, keepdims=True) / jnp.maximum(jnp.sum(real), 1.0)
    arms = real * (positions - center)
    arms = arms / jnp.maximum(jnp.max(jnp.abs(arms)), 1e-3)
    axes = jnp.where(jnp.all(free) & rotations, _rotation_axes(cell, system.pbc), 0.0)
    return jnp.stack(translations + [jnp.cross(jnp.broadcast_to(axis, shape), arms) for axis in axes])


def _rotation_axes(cell: Cell, pbc: Array) -> Array:
    """(3, 3) axes, as rows, of the rotations that keep the periodic lattice vectors; zero rows for none."""
    periodic = jnp.sum(pbc)
    along = jnp.sum(jnp.where(pbc[:, None], cell, 0.0), axis=0)
    along = along / jnp.linalg.norm(jnp.where(periodic == 1, along, 1.0))
    wire = jnp.outer(along, along)
    return jnp.where(periodic == 0, jnp.eye(3, dtype=cell.dtype), jnp.where(periodic == 1, wire, 0.0))


@full_matmul
def _remove(modes: Array, v: Array) -> Array:
    """Component of v orthogonal to the span of the modes, whatever their rank."""
    gram = jnp.einsum("iab,jab->ij", modes, modes)
    overlap = jnp.einsum("iab,ab->i", modes, v)
    weights = jnp.linalg.pinv(gram, rtol=1e-5, hermitian=True) @ overlap
    return v - jnp.einsum("i,iab->ab", weights, modes)
