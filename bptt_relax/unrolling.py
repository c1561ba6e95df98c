"""Unrolled relaxations: what they return, and how they carry on when neighbors must be rebuilt."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax import systems
from bptt_relax._types import Array, PyTree, Scalar
from bptt_relax.adjoints import Adjoint, Checkpointed, RecordFn, _floats
from bptt_relax.outcomes import Outcome, RelaxationError
from bptt_relax.relax import Relaxation, RelaxState, Theta, set_running
from bptt_relax.systems import System


class Unrolled(NamedTuple):
    """Result of an unrolled relaxation.

    Attributes:
        state: where it ended.
        trace: what ``record`` kept of each step, stacked (T, ...).
        outcome: () int, `outcomes.Outcome`.
        residual: () largest force the relaxation last saw, eV/angstrom.
    """

    state: RelaxState
    trace: PyTree
    outcome: Array
    residual: Scalar


UnrolledFn = Callable[[Theta, RelaxState, System], Unrolled]


def nothing(state: RelaxState) -> tuple[()]:
    """Record nothing."""
    del state
    return ()


def scalars(state: RelaxState) -> dict[str, Array]:
    """Record energy, largest force, step length and the number of steps made."""
    return {
        "energy": state.energy,
        "max_force": state.max_force,
        "step_norm": state.step_norm,
        "steps": state.steps,
    }


def path(state: RelaxState) -> dict[str, Array]:
    """Record the scalars and the positions."""
    return {**scalars(state), "positions": state.positions}


def unroll(
    relaxation: Relaxation, num_steps: int, adjoint: Adjoint | None = None, record: RecordFn = nothing
) -> UnrolledFn:
    """Build a function that relaxes for ``num_steps`` steps and can be differentiated.

    Args:
        relaxation: from `relax.relaxation`.
        num_steps: largest number of displacements.
        adjoint: how to differentiate; `adjoints.Checkpointed` when not given.
        record: what to keep of each step: `nothing`, `scalars`, `path`, or any function of the state.

    Returns:
        run(theta, state, system) -> `Unrolled`; pure, to be jitted, differentiated, mapped.

    Raises:
        ValueError: ``num_steps`` is not a positive integer.
    """
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps must be a positive integer, got {num_steps!r}")
    steps = (Checkpointed() if adjoint is None else adjoint).build(relaxation, num_steps, record)

    def run(theta: Theta, state: RelaxState, system: System) -> Unrolled:
        final, trace = steps(theta, state, system)
        return Unrolled(final, trace, final.outcome, final.max_force)

    return run


class Segment(NamedTuple):
    """One stretch of a relaxation on one neighbor list: where it starts and the system it runs on."""

    state: RelaxState
    system: System


def relax_through_rebuilds(
    run: UnrolledFn, theta: Theta, state: RelaxState, system: System, *, max_rebuilds: int = 20
) -> tuple[Unrolled, list[Segment]]:
    """Run on the host, rebuilding the neighbors whenever they become stale.

    Args:
        run: from `unroll`, best jitted.
        theta: parameters.
        state: from ``relaxation.init``.
        system: with neighbors.
        max_rebuilds: give up after this many.

    Returns:
        the result of the last segment (its trace covers that segment only) and all segments.

    Raises:
        RelaxationError: still stale after ``max_rebuilds`` rebuilds, or stale right after one.
    """
    segments = [Segment(state, system)]
    for _ in range(max_rebuilds + 1):
        result = run(theta, *segments[-1])
        if int(result.outcome) != Outcome.STALE_NEIGHBORS:
            return result, segments
        segments.append(rebuild(result.state, segments[-1].system))
    raise RelaxationError(
        f"the neighbor list was rebuilt {max_rebuilds} times within one relaxation: atoms move too far per step; "
        "cap the displacement (relax.cap_displacement), reduce the step size, or enlarge the skin"
    )


def rebuild(state: RelaxState, system: System) -> Segment:
    """Rebuild the neighbors where a relaxation stands and set it running again."""
    system = systems.rebuild_neighbors(np.asarray(state.positions), system._replace(cell=state.cell))
    return Segment(set_running(state), system)


def value_and_grad_through_rebuilds(
    run: UnrolledFn,
    loss: Callable[[Theta, RelaxState, System], tuple[Scalar, Any]],
    theta: Theta,
    state: RelaxState,
    system: System,
    *,
    max_rebuilds: int = 20,
) -> tuple[tuple[Scalar, Any], Theta]:
    """Loss of the relaxed state and its gradient through every segment and every rebuild.

    The neighbor list is a discrete choice without gradient, so the chain rule over segments is exact: each
    segment is differentiated with the list it ran on, last to first.

    Args:
        run: from `unroll`, best jitted.
        loss: (theta, final state, system) -> (value, auxiliary).
        theta: parameters.
        state: from ``relaxation.init``.
        system: with neighbors.
        max_rebuilds: give up after this many.

    Returns:
        ((value, auxiliary), gradient with respect to theta).

    Raises:
        RelaxationError: too many rebuilds.
    """
    result, segments = relax_through_rebuilds(run, theta, state, system, max_rebuilds=max_rebuilds)
    floats, rest = _floats.split(result.state)
    (value, aux), (gradient, cotangent) = jax.value_and_grad(
        lambda t, f: loss(t, _floats.join(f, rest), segments[-1].system), argnums=(0, 1), has_aux=True
    )(theta, floats)
    for segment in reversed(segments):
        theta_gradient, cotangent = _pull_back(run, theta, segment, cotangent)
        gradient = jax.tree.map(jnp.add, gradient, theta_gradient)
    return (value, aux), gradient


@partial(jax.jit, static_argnames="run")
def _pull_back(run: UnrolledFn, theta: Theta, segment: Segment, cotangent: PyTree) -> tuple[Theta, PyTree]:
    floats, rest = _floats.split(segment.state)

    def final_floats(theta, floats):
        return _floats.split(run(theta, _floats.join(floats, rest), segment.system).state)[0]

    _, pull = jax.vjp(final_floats, theta, floats)
    return pull(cotangent)
