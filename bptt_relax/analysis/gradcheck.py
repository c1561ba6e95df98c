"""Is the gradient of an unrolled relaxation the derivative of its loss? Asked on the user's own case."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._precision import precision
from bptt_relax._types import Array, Positions, PyTree, Scalar
from bptt_relax.analysis._check import Check, check, failures, note, to_device, to_host
from bptt_relax.outcomes import Outcome, explain
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import System
from bptt_relax.unrolling import Unrolled, UnrolledFn

LossFn = Callable[[Theta, Unrolled, System], Scalar]
"""(theta, result, system) -> loss (). Pass reference arrays in numpy: the check runs in two precisions."""


class GradientReport(NamedTuple):
    """Gradients against finite differences.

    Attributes:
        checks: one for each direction and each hyperparameter, one for single precision.
        passed: nothing failed.
        sentence: the verdict in words.
    """

    checks: tuple[Check, ...]
    passed: bool
    sentence: str


def gradcheck(
    run: UnrolledFn,
    relaxation: Relaxation,
    theta: Theta,
    positions: Positions,
    system: System,
    loss: LossFn,
    *,
    num_directions: int = 2,
    step: float = 1e-4,
    tolerance: float = 1e-6,
    single_tolerance: float | None = 1e-3,
    seed: int = 0,
) -> GradientReport:
    """Compare gradients with finite differences in double precision, and single precision with double; on the host.

    Parameters of the potential are checked along random directions, each leaf scaled by its own size, the
    hyperparameters one by one. Differences are of fourth order; one that disagrees is taken again over a hundredth of
    the step. An adjoint that is not exact fails, as it should.

    Args:
        run: from `unrolling.unroll`.
        relaxation: gives the start.
        theta: parameters.
        positions: (N, 3) angstrom, the start.
        system: with neighbors.
        loss: of the result.
        num_directions: random directions in the parameters of the potential.
        step: of the differences, relative to the size of the parameters.
        tolerance: on the relative error in double precision.
        single_tolerance: on the relative difference between gradients in single and in double precision; None
            leaves that out, and half of the compilation.
        seed: of the directions.
    """
    theta, positions, system = to_host((theta, positions, system))

    def value(theta: Theta, positions: Positions, system: System):
        result = run(theta, relaxation.init(theta, positions, system), system)
        return loss(theta, result, system), (result.outcome, result.state.steps)

    # Each is compiled anew for each precision it is called in.
    differentiated, evaluated = jax.jit(jax.value_and_grad(value, has_aux=True)), jax.jit(value)
    with precision(double=True):
        place = to_device((positions, system), double=True)
        start = to_device(theta, double=True)
        (base, (outcome, made)), gradient = differentiated(start, *place)
        checks = []

        def compare(name: str, direction: Theta, step: float) -> Check:
            points = [
                evaluated(_move(theta, direction, scale * step), *place) for scale in (-2.0, -1.0, 1.0, 2.0)
            ]
            changed = any(_differs(aux, (outcome, made)) for _, aux in points)
            values = [float(v) for v, _ in points]
            return _compare(name, values, gradient, direction, step, tolerance, changed, base)

        for name, direction in _directions(theta, num_directions, seed):
            found = compare(name, direction, step)
            if found.passed is False:
                # A piecewise linear activation that bends on the way spoils a difference, and a short one less often.
                closer = compare(name, direction, step / 100)
                found = found if closer.passed is False else closer
            checks.append(found)
        if int(outcome) >= Outcome.STALE_NEIGHBORS:
            checks.append(Check("outcome", float(outcome), None, False, explain(int(outcome))))
        gradient = to_host(gradient)
    if single_tolerance is not None:
        with precision(double=False):
            place = to_device((positions, system), double=False)
            single = to_host(differentiated(to_device(theta, double=False), *place)[1])
        error = _relative_distance(single, gradient)
        detail = "relative difference between the gradients in single and in double precision"
        checks.append(check("single precision", error, single_tolerance, detail))
    bad = failures(checks)
    sentence = (
        "gradients agree with finite differences"
        if not bad
        else "gradients are NOT the derivative of the loss: " + ", ".join(c.name for c in bad)
    )
    return GradientReport(tuple(checks), not bad, sentence)


def _directions(theta: Theta, count: int, seed: int) -> list[tuple[str, Theta]]:
    """Random directions in the potential, unit directions in the rule; host arrays."""
    rng = np.random.default_rng(seed)
    still = jax.tree.map(np.zeros_like, theta)

    def draw(leaf: np.ndarray) -> np.ndarray:
        if not np.issubdtype(leaf.dtype, np.inexact):
            return np.zeros_like(leaf)
        size = np.sqrt(np.mean(np.square(leaf, dtype=float))) if leaf.size else 0.0
        return rng.normal(size=leaf.shape) * (size if size > 0 else 1.0)

    found = [
        (f"potential, direction {i + 1}", still._replace(potential=jax.tree.map(draw, theta.potential)))
        for i in range(count)
    ]
    leaves, structure = jax.tree_util.tree_flatten_with_path(still.rule)
    for k, (path, leaf) in enumerate(leaves):
        for index in np.ndindex(leaf.shape):
            one = np.zeros(leaf.shape)
            one[index] = 1.0
            values = [one if i == k else other for i, (_, other) in enumerate(leaves)]
            found.append(
                (
                    f"rule {jax.tree_util.keystr(path)}",
                    still._replace(rule=jax.tree.unflatten(structure, values)),
                )
            )
    return found


def _move(theta: Theta, direction: Theta, scale: float) -> Theta:
    moved = jax.tree.map(
        lambda x, d: x + scale * d if np.issubdtype(x.dtype, np.inexact) else x, theta, direction
    )
    return to_device(moved, double=True)


def _differs(a: tuple[Array, Array], b: tuple[Array, Array]) -> bool:
    return any(int(x) != int(y) for x, y in zip(a, b, strict=True))


def _compare(
    name: str,
    values: list[float],
    gradient: Theta,
    direction: Theta,
    step: float,
    tolerance: float,
    changed: bool,
    base: Scalar,
) -> Check:
    far_below, below, above, far_above = values
    difference = (8 * (above - below) - (far_above - far_below)) / (12 * step)
    along = sum(
        float(jnp.vdot(g, d)) if jnp.issubdtype(g.dtype, jnp.inexact) else 0.0
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    # What rounding alone does to the difference; a derivative that small can't be told from zero.
    noise = 100 * np.finfo(float).eps * max(abs(float(base)), 1e-3) / step
    error = abs(along - difference) / max(abs(difference), noise / tolerance)
    detail = f"relative error; gradient {along:.9g}, finite difference {difference:.9g}"
    if changed:
        return note(
            name, error, f"{detail}; undecided: the number of steps changes nearby, check without tolerances"
        )
    return check(name, error, tolerance, detail)


def _relative_distance(a: PyTree, b: PyTree) -> float:
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    squared = sum(np.sum(np.square(np.asarray(x, float) - np.asarray(y, float))) for x, y in pairs)
    size = sum(np.sum(np.square(np.asarray(y, float))) for _, y in pairs)
    return float(np.sqrt(squared / size)) if size > 0 else float(np.sqrt(squared))
