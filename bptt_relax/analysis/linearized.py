"""The whole Jacobian of a step: for cells of up to a few hundred atoms, where it can be built and diagonalized.

Near a structure x, a relaxation is x + d <- x + J d + s with the step s it makes from x itself. J says whether
differences shrink, s by how much x is not a fixed point; and along a mode of stiffness l in which the force is f, the
fixed point lies f / l away: a force that is small moves a structure far where it is soft.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bptt_relax._types import Cell, Positions
from bptt_relax.adjoints.curvature import rigid_modes
from bptt_relax.relax import Relaxation, Theta, set_running
from bptt_relax.relax._contract import Evaluation
from bptt_relax.systems import System
from bptt_relax.trees import safe_norm


class LinearStep(NamedTuple):
    """One step from a structure, and what it does to small differences from it.

    M is the number of directions that are neither held nor rigid.

    Attributes:
        step: (n, 3) displacement that it makes, the rule starting without memory, angstrom.
        max_force: eV/angstrom, on what may move.
        radius: spectral radius of the step's Jacobian off rigid motions: growth per step in the long run.
        norm: its largest singular value: growth in a single step.
        rigid_radius: spectral radius on rigid motions, which no force opposes: one. Zero where there are none.
        stiffness: (M,) eigenvalues of the Hessian, ascending, eV/angstrom^2; where forces are not conservative, of the
            symmetric part of their negative Jacobian.
        modes: (M, n, 3) its eigenvectors.
        residual: (M,) force along each of them, eV/angstrom.
    """

    step: np.ndarray
    max_force: float
    radius: float
    norm: float
    rigid_radius: float
    stiffness: np.ndarray
    modes: np.ndarray
    residual: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """(M,) how far away the fixed point lies along each mode if forces are linear, angstrom."""
        return self.residual / self.stiffness


LinearizeFn = Callable[[Theta, Positions, System], LinearStep]


def linearized_step(relaxation: Relaxation) -> LinearizeFn:
    """Build a host function that linearizes the step from a structure; compiled once per layout.

    As many Jacobian-vector products of the forces as there are coordinates, each about one evaluation. The step sees
    the potential through its forces alone, so that its own Jacobian needs no more of them.

    Args:
        relaxation: without tolerances, for where a relaxation stops there is no step.

    Returns:
        (theta, positions, system) -> `LinearStep`.

    Raises:
        ValueError: the relaxation moves the cell.
    """
    if relaxation.moves_cell:
        raise ValueError(
            "linearized_step differentiates positions in a given cell, and this relaxation moves the cell"
        )

    @jax.jit
    def linearize(theta: Theta, positions: Positions, system: System):
        state = set_running(relaxation.init(theta, positions, system))

        def forces_of(x: Positions):
            here = relaxation.evaluate(theta, x, system.cell, system)
            return here.forces, here

        forces, push, here = jax.linearize(forces_of, positions, has_aux=True)
        basis = jnp.eye(positions.size, dtype=positions.dtype).reshape(-1, *positions.shape)
        # In turn: side by side, all their scratch memory would be needed at once.
        jacobian = lax.map(push, basis).reshape(positions.size, positions.size).T

        start = positions

        def linear(theta: Theta, positions: Positions, cell: Cell, system: System) -> Evaluation:
            del theta, cell, system
            moved = (jacobian @ (positions - start).reshape(-1)).reshape(positions.shape)
            return here._replace(forces=forces + moved)

        leaves, structure = jax.tree.flatten(state)
        rows = [i for i, leaf in enumerate(leaves) if jnp.shape(leaf) == positions.shape]

        def step(moving):
            changed = list(leaves)
            for row, i in zip(moving, rows, strict=True):
                changed[i] = row
            carry = relaxation.carry(jax.tree.unflatten(structure, changed))
            after, _ = relaxation.advance(linear, theta, carry, system)
            return jnp.stack([jax.tree.leaves(after)[i] for i in rows]), after.steps

        whole, steps = jax.jacfwd(step, has_aux=True)(jnp.stack([leaves[i] for i in rows]))
        after, _ = relaxation.advance(linear, theta, relaxation.carry(state), system)
        rigid = rigid_modes(positions, system.cell, system, rotations=relaxation.conservative)
        largest = jnp.max(safe_norm(forces))
        moves = (steps > state.steps) & ~here.overflow
        return whole, jacobian, forces, after.positions - positions, rigid, largest, moves

    def look(theta: Theta, positions: Positions, system: System) -> LinearStep:
        whole, jacobian, forces, moved, rigid, largest, moves = (
            np.asarray(x) for x in linearize(theta, positions, system)
        )
        if not moves:
            raise ValueError(
                "the relaxation makes no step from this structure: build it without tolerances, and check the neighbors"
            )
        free = np.flatnonzero(np.asarray(system.free))
        rigid_basis, others = _bases(rigid.astype(float).reshape(len(rigid), -1)[:, free])
        count, size = len(whole), positions.size
        whole = whole.astype(float).reshape(count, size, count, size)[:, free][..., free]
        within = np.einsum("im,aibj,jn->ambn", others, whole, others)
        within = within.reshape(count * others.shape[1], -1)
        along = np.einsum("im,aibj,jn->ambn", rigid_basis, whole, rigid_basis)
        along = along.reshape(count * rigid_basis.shape[1], -1)
        hessian = -others.T @ jacobian.astype(float)[np.ix_(free, free)] @ others
        stiffness, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
        modes = np.zeros((len(stiffness), size))
        modes[:, free] = (others @ vectors).T
        atoms = int(np.asarray(system.mask).sum())
        return LinearStep(
            step=moved[:atoms],
            max_force=float(largest),
            radius=_radius(within),
            norm=float(np.linalg.norm(within, 2)) if within.size else 0.0,
            rigid_radius=_radius(along),
            stiffness=stiffness,
            modes=modes.reshape(-1, *positions.shape)[:, :atoms],
            residual=modes @ forces.astype(float).reshape(-1),
        )

    return look


def _bases(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases, as columns, of the span of some vectors and of everything orthogonal to it."""
    _, lengths, rows = np.linalg.svd(vectors)
    rank = int(np.sum(lengths > 1e-5 * max(lengths.max(initial=0.0), 1e-30)))
    return rows[:rank].T, rows[rank:].T


def _radius(matrix: np.ndarray) -> float:
    return float(np.max(np.abs(np.linalg.eigvals(matrix)), initial=0.0))
