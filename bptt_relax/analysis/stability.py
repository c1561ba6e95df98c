"""Whether an update rule is stable at a given curvature, found by asking the rule."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Array, PyTree
from bptt_relax.relax import UpdateRule
from bptt_relax.systems import System

_WARM_UP = 100
_FORCE = 1e-6


class Stability(NamedTuple):
    """An update rule against the largest eigenvalue L of the Hessian.

    Attributes:
        largest: L, eV/angstrom^2.
        limit: largest curvature at which the rule is stable, eV/angstrom^2.
        radius: spectral radius of a step in the direction of L; above one, differences grow by it in every step.
        step_size: angstrom^2/eV, or None for a rule without a learnable step size.
        product: step_size * L, or None.
        product_limit: the largest stable product, or None: 2 for descent, 2 (1 + m) for the heavy ball and
            2 (1 + m) / (1 - m) for the convex mix with weight m of the previous displacement.
        stable: whether L is below the limit.
        sentence: all that in words.
    """

    largest: float
    limit: float
    radius: float
    step_size: float | None
    product: float | None
    product_limit: float | None
    stable: bool
    sentence: str


def stability(rule: UpdateRule, hyper: PyTree, largest: float) -> Stability:
    """Compare a rule with the largest curvature it will meet; on the host.

    The rule moves one atom in a harmonic well; the eigenvalues of that map of position and memory are what counts.
    Both the rule as it starts and the rule after many downhill steps are tried, for annealing makes the first the
    harsher one and a growing time step the second.

    Args:
        rule: a rule or a chain.
        hyper: its hyperparameters, as in ``theta.rule``.
        largest: L, eV/angstrom^2, from `spectrum.hessian_extremes`.

    Raises:
        ValueError: L is not positive.
    """
    largest = float(largest)
    if not largest > 0:
        raise ValueError(f"largest must be positive, got {largest}")
    radius = _radius(rule, hyper)
    limit = _limit(radius, largest)
    step_size = _find_step_size(hyper)
    here = radius(largest)
    stable = here <= 1 + 1e-6
    product = None if step_size is None else step_size * largest
    product_limit = None if step_size is None else step_size * limit
    sentence = _sentence(largest, limit, here, step_size, stable)
    return Stability(largest, limit, here, step_size, product, product_limit, stable, sentence)


def _radius(rule: UpdateRule, hyper: PyTree) -> Callable[[float], float]:
    system = System(
        species=jnp.ones(1, jnp.int32),
        masses=jnp.ones(1),
        cell=jnp.eye(3),
        pbc=jnp.zeros(3, bool),
        mask=jnp.ones(1, bool),
        free=jnp.ones((1, 3), bool),
    )
    # So small that no cap on displacements takes part.
    force = jnp.zeros((1, 3)).at[0, 0].set(_FORCE)
    start = rule.init(hyper, system)
    warm, _ = jax.lax.scan(
        lambda s, _: (rule.update(hyper, force, s, system)[1], None), start, None, _WARM_UP
    )

    @jax.jit
    def jacobians(curvature: Array) -> Array:
        return jnp.stack([_jacobian(rule, hyper, system, memory, curvature) for memory in (start, warm)])

    def radius(curvature: float) -> float:
        eigenvalues = np.linalg.eigvals(np.asarray(jacobians(jnp.asarray(curvature, float))))
        return float(np.max(np.abs(eigenvalues)))

    return radius


def _jacobian(rule: UpdateRule, hyper: PyTree, system: System, memory: PyTree, curvature: Array) -> Array:
    """Derivative of (position, rows of the memory) after a step with respect to those before it."""
    leaves, structure = jax.tree.flatten(memory)
    rows = [i for i, leaf in enumerate(leaves) if jnp.shape(leaf) == (1, 3)]

    def step(z: Array) -> Array:
        changed = list(leaves)
        for value, i in zip(z[1:], rows, strict=True):
            changed[i] = leaves[i].at[0, 0].set(value)
        position = jnp.zeros((1, 3)).at[0, 0].set(z[0])
        displacement, after = rule.update(
            hyper, -curvature * position, jax.tree.unflatten(structure, changed), system
        )
        memory_after = jax.tree.leaves(after)
        return jnp.stack([z[0] + displacement[0, 0], *(memory_after[i][0, 0] for i in rows)])

    # On the downhill side, where the memory points too.
    here = jnp.stack([-_FORCE / curvature, *(leaves[i][0, 0] for i in rows)])
    return jax.jacfwd(step)(here)


def _limit(radius: Callable[[float], float], start: float) -> float:
    """Bisection for the largest stable curvature, to six digits."""
    low, high = start, start
    while radius(low) > 1 + 1e-6 and low > 1e-9 * start:
        low /= 4
    while radius(high) <= 1 + 1e-6 and high < 1e9 * start:
        high *= 4
    while high / low > 1 + 1e-6:
        middle = np.sqrt(low * high)
        low, high = (middle, high) if radius(middle) <= 1 + 1e-6 else (low, middle)
    return float(np.sqrt(low * high))


def _find_step_size(hyper: PyTree) -> float | None:
    found = [
        float(jnp.exp(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(hyper)
        if any(getattr(key, "key", None) == "log_step_size" for key in path)
    ]
    return found[0] if len(found) == 1 else None


def _sentence(largest: float, limit: float, radius: float, step_size: float | None, stable: bool) -> str:
    fraction = f"{100 * largest / limit:.0f}% of what the rule is stable for"
    if step_size is None:
        numbers = f"the largest curvature, {largest:.3g} eV/A^2, is {fraction} ({limit:.3g} eV/A^2)"
    else:
        numbers = (
            f"step size {step_size:.3g} A^2/eV times the largest curvature {largest:.3g} eV/A^2 is "
            f"{step_size * largest:.3g}, {fraction} ({step_size * limit:.3g})"
        )
    if stable:
        return numbers
    cure = "shrink the steps" if step_size is None else f"take a step size of {1 / largest:.2g} A^2/eV (1/L)"
    return f"{numbers}: unstable, gradients grow by a factor of {radius:.3g} per step and point elsewhere; {cure}"
