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
from bptt_relax.relax import Relaxation, RelaxInfo, RelaxState, Theta, set_running
from bptt_relax.systems import System


class Unrolled(NamedTuple):
    """Result of an unrolled relaxation.

    Attributes:
        state: where it ended.
        info: what the last step reported.
        trace: what ``record`` kept of each step, stacked (T, ...).
    """

    state: RelaxState
    info: RelaxInfo
    trace: PyTree

    @property
    def outcome(self) -> Array:
        """() int, `outcomes.Outcome`."""
        return self.state.outcome

    @property
    def residual(self) -> Scalar:
        """() largest force the relaxation last saw, eV/angstrom."""
        return self.info.max_force


UnrolledFn = Callable[[Theta, RelaxState, System], Unrolled]


def nothing(state: RelaxState, info: RelaxInfo) -> tuple[()]:
    """Record nothing."""
    del state, info
    return ()


def scalars(state: RelaxState, info: RelaxInfo) -> dict[str, Array]:
    """Record energy, largest force, step length and the number of steps made."""
    return {
        "energy": info.energy,
        "max_force": info.max_force,
        "step_norm": info.step_norm,
        "steps": state.steps,
    }


def path(state: RelaxState, info: RelaxInfo) -> dict[str, Array]:
    """Record the scalars and the positions."""
    return {**scalars(state, info), "positions": state.positions}


def unroll(
    relaxation: Relaxation, num_steps: int, adjoint: Adjoint | None = None, record: RecordFn = nothing
) -> UnrolledFn:
    """Build a function that relaxes for ``num_steps`` steps and can be differentiated.

    Args:
        relaxation: from `relax.relaxation`.
        num_steps: largest number of displacements.
        adjoint: how to differentiate; `adjoints.Checkpointed` when not given.
        record: what to keep of each step: `nothing`, `scalars`, `path`, or any function of the state and the report.

    Returns:
        run(theta, state, system) -> `Unrolled`; pure, to be jitted, differentiated, mapped.

    Raises:
        ValueError: ``num_steps`` is not a positive integer.
    """
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps must be a positive integer, got {num_steps!r}")
    steps = (Checkpointed() if adjoint is None else adjoint).build(relaxation, num_steps, record)

    def run(theta: Theta, state: RelaxState, system: System) -> Unrolled:
        final, trace = steps(theta, relaxation.carry(state), system)
        return Unrolled(*final, trace)

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
    loss: Callable[[Theta, Unrolled, System], tuple[Scalar, Any]],
    theta: Theta,
    state: RelaxState,
    system: System,
    *,
    max_rebuilds: int = 20,
) -> tuple[tuple[Scalar, Any], Theta]:
    """Loss of where a relaxation ends and its gradient through every segment and every rebuild.

    The neighbor list is a discrete choice without gradient, so the chain rule over segments is exact: each
    segment is differentiated with the list it ran on, last to first.

    Args:
        run: from `unroll`, best jitted.
        loss: (theta, result of the last segment, its system) -> (value, auxiliary); the trace has no gradient.
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

    def of_end(theta, floats, info):
        end = result._replace(state=_floats.join(floats, rest), info=info)
        return loss(theta, end, segments[-1].system)

    (value, aux), (gradient, of_state, of_info) = jax.value_and_grad(of_end, argnums=(0, 1, 2), has_aux=True)(
        theta, floats, result.info
    )
    for segment in reversed(segments):
        theta_gradient, of_state = _pull_back(run, theta, segment, of_state, of_info)
        gradient = jax.tree.map(jnp.add, gradient, theta_gradient)
        # A segment starts from the state that the one before it reached, not from what that reported.
        of_info = jax.tree.map(jnp.zeros_like, of_info)
    return (value, aux), gradient


@partial(jax.jit, static_argnames="run")
def _pull_back(
    run: UnrolledFn, theta: Theta, segment: Segment, of_state: PyTree, of_info: RelaxInfo
) -> tuple[Theta, PyTree]:
    """Cotangents of theta and of the first state of a segment, for those of its final state and report."""
    floats, rest = _floats.split(segment.state)

    def end(theta, floats):
        result = run(theta, _floats.join(floats, rest), segment.system)
        return _floats.split(result.state)[0], result.info

    _, pull = jax.vjp(end, theta, floats)
    return pull((of_state, of_info))
