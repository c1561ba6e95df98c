"""Curvature of a structure and how a step stretches it: whether an unrolled gradient means anything.

A step size beyond the limit that the largest curvature sets makes the gradient of an unroll grow geometrically and
point elsewhere; clipping bounds its length, not its direction.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Positions, Scalar
from bptt_relax.adjoints.curvature import curvature
from bptt_relax.relax import Relaxation, RelaxState, Theta, set_running
from bptt_relax.systems import System


class Extremes(NamedTuple):
    """Smallest and largest eigenvalue of the Hessian, over what may move and is not rigid.

    Where forces are not conservative, of the symmetric part of their negative Jacobian.

    Attributes:
        smallest: () eV/angstrom^2; negative away from a minimum.
        largest: () eV/angstrom^2.
        smallest_error: () bound on its distance from an eigenvalue, eV/angstrom^2.
        largest_error: () likewise.
    """

    smallest: Scalar
    largest: Scalar
    smallest_error: Scalar
    largest_error: Scalar


def hessian_extremes(
    relaxation: Relaxation,
    theta: Theta,
    positions: Positions,
    system: System,
    *,
    num_products: int = 30,
    seed: int = 0,
) -> Extremes:
    """Both ends of the spectrum of the Hessian, from Hessian-vector products alone; pure, to be jitted.

    Lanczos (doi:10.6028/jres.045.026) with full orthogonalization: the vectors of a power iteration, of which it uses
    all and not only the last. The largest eigenvalue is good to a percent after about 15 products, the smallest is
    only as good as its error says.

    Args:
        relaxation: gives the forces.
        theta: parameters.
        positions: (N, 3) angstrom.
        system: masks, neighbors, cell.
        num_products: Hessian-vector products, each about one force evaluation.
        seed: of the start vector.
    """
    here = curvature(relaxation, theta, positions, system.cell, system)

    def product(v: Array) -> Array:
        return here.product(v) if relaxation.conservative else 0.5 * (here.product(v) + here.transposed(v))

    start = here.project(jax.random.normal(jax.random.key(seed), positions.shape, positions.dtype))
    size = min(num_products, positions.size)
    alpha, beta = _lanczos(product, here.project, start, size)
    # Once the space is exhausted there are no more vectors: fill up with a value inside the spectrum.
    filled = jnp.concatenate([jnp.ones((1,), bool), jnp.cumprod(beta[:-1] > 0).astype(bool)])
    alpha = jnp.where(filled, alpha, alpha[0])
    off = jnp.where(filled[1:], beta[:-1], 0.0)
    values, vectors = jnp.linalg.eigh(jnp.diag(alpha) + jnp.diag(off, 1) + jnp.diag(off, -1))
    errors = jnp.where(filled[-1], jnp.abs(beta[-1] * vectors[-1]), 0.0)
    return Extremes(values[0], values[-1], errors[0], errors[-1])


@full_matmul
def _lanczos(product, project, start: Array, size: int) -> tuple[Array, Array]:
    """Diagonal (size,) and subdiagonal (size,) of the projection on the Krylov space; zeros beyond its end."""
    # Below this, what is left is rounding.
    tiny = jnp.sqrt(jnp.finfo(start.dtype).eps)

    def one(carry, k):
        V, scale = carry
        w = product(V[k].reshape(start.shape)).reshape(-1)
        alpha = jnp.dot(V[k], w)
        for _ in range(2):  # Gram-Schmidt twice: once loses orthogonality
            w = w - (V @ w) @ V
        # Again: what is left may be small, and rigid motions in it would be blown up to full length.
        w = project(w.reshape(start.shape)).reshape(-1)
        beta = jnp.linalg.norm(w)
        scale = jnp.maximum(scale, jnp.maximum(jnp.abs(alpha), beta))
        beta = jnp.where(beta > tiny * scale, beta, 0.0)
        V = V.at[k + 1].set(jnp.where(beta > 0, w / jnp.where(beta > 0, beta, 1.0), 0.0))
        return (V, scale), (alpha, beta)

    length = jnp.linalg.norm(start)
    first = start.reshape(-1) / jnp.where(length > 0, length, 1.0)
    V = jnp.zeros((size + 1, start.size), start.dtype).at[0].set(first)
    _, (alpha, beta) = jax.lax.scan(one, (V, jnp.zeros((), start.dtype)), jnp.arange(size))
    return alpha, beta


class StepSpectrum(NamedTuple):
    """How one step stretches differences between structures, rigid motions left out.

    Attributes:
        radius: spectral radius of the step's Jacobian: growth per step in the long run.
        norm: its largest singular value: growth in a single step. With momentum it can exceed one where the radius
            does not.
    """

    radius: float
    norm: float


def step_spectrum(
    relaxation: Relaxation,
    theta: Theta,
    state: RelaxState,
    system: System,
    *,
    num_products: int = 60,
    seed: int = 0,
) -> StepSpectrum:
    """Spectral radius (Arnoldi) and operator norm (power iteration) of d step / d state; on the host.

    The state is what has a row per atom: positions and the memory of the rule. Scalars, as an annealed step size,
    stay as they are.

    Args:
        relaxation: without tolerances, for where a relaxation stops there is no step.
        theta: parameters.
        state: where to look.
        system: masks, neighbors.
        num_products: Jacobian-vector products.
        seed: of the start vector.

    Raises:
        ValueError: the relaxation makes no step from here.
    """
    state = set_running(state)
    leaves, structure = jax.tree.flatten(state)
    moving = [i for i, leaf in enumerate(leaves) if jnp.shape(leaf) == state.positions.shape]
    project = curvature(relaxation, theta, state.positions, state.cell, system).project
    shape = (len(moving), *state.positions.shape)

    def step(rows: Array) -> Array:
        changed = list(leaves)
        for row, i in zip(rows, moving, strict=True):
            changed[i] = row
        after, _ = relaxation.step(theta, jax.tree.unflatten(structure, changed), system)
        after = jax.tree.leaves(after)
        return jnp.stack([after[i] for i in moving])

    def projected(rows: Array) -> Array:
        return jnp.stack([project(row) for row in rows])

    if int(relaxation.step(theta, state, system).state.steps) == int(state.steps):
        raise ValueError(
            "the relaxation makes no step from this state: build it without tolerances, and check the neighbors"
        )
    here = jnp.stack([leaves[i] for i in moving])
    push = jax.jit(lambda v: projected(jax.jvp(step, (here,), (projected(v),))[1]))
    pull = jax.jit(lambda v: projected(jax.vjp(step, here)[1](projected(v))[0]))
    start = np.random.default_rng(seed).normal(size=shape)

    def forward(v: np.ndarray) -> np.ndarray:
        return np.asarray(push(v.reshape(shape).astype(here.dtype)), float).reshape(-1)

    def gram(v: np.ndarray) -> np.ndarray:
        return np.asarray(pull(push(v.reshape(shape).astype(here.dtype))), float).reshape(-1)

    start = np.asarray(projected(jnp.asarray(start, here.dtype)), float).reshape(-1)
    radius = np.max(np.abs(np.linalg.eigvals(_hessenberg(forward, start, num_products))), initial=0.0)
    norm = np.sqrt(np.max(np.linalg.eigvals(_hessenberg(gram, start, num_products // 2)).real, initial=0.0))
    return StepSpectrum(float(radius), float(norm))


def _hessenberg(product, start: np.ndarray, size: int) -> np.ndarray:
    """Projection of an operator on its Krylov space (Arnoldi)."""
    size = min(size, len(start))
    length = np.linalg.norm(start)
    if length == 0:
        return np.zeros((0, 0))
    V = [start / length]
    H = np.zeros((size + 1, size))
    for k in range(size):
        w = product(V[k])
        before = np.linalg.norm(w)
        for _ in range(2):
            overlaps = np.stack(V) @ w
            H[: k + 1, k] += overlaps
            w = w - overlaps @ np.stack(V)
        H[k + 1, k] = np.linalg.norm(w)
        if H[k + 1, k] <= 1e-10 * before:
            return H[: k + 1, : k + 1]
        V.append(w / H[k + 1, k])
    return H[:size, :size]
