"""Forward relaxation to the end, without a gradient: steps are made until a structure needs no more of them.

One function for one structure, compiled once per layout. Under `vmap` it serves many side by side, each with its own
end; on the host, whoever calls it rebuilds neighbors, puts the next structure in, or stops, between calls.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bptt_relax._types import Array, Positions, PyTree
from bptt_relax.adjoints import RecordFn
from bptt_relax.outcomes import Outcome
from bptt_relax.relax import Carry, Relaxation, RelaxInfo, RelaxState, Theta, set_running
from bptt_relax.systems import System
from bptt_relax.trees import where


class Progress(NamedTuple):
    """How far the relaxation of one structure is.

    Attributes:
        state: of the relaxation.
        info: what was last reported. Once finished, its energy, forces and stress are those of where it ended.
        finished: () bool, nothing is left to do. False with outcome STALE_NEIGHBORS: rebuild and go on.
    """

    state: RelaxState
    info: RelaxInfo
    finished: Array


class Visits(NamedTuple):
    """Configurations that were evaluated in one call, the first ``count`` of each array.

    Attributes:
        count: () int.
        kept: what was recorded, (chunk, ...) each.
    """

    count: Array
    kept: PyTree


SettleFn = Callable[[Theta, Progress, System], tuple[Progress, Visits]]


def begin(relaxation: Relaxation, theta: Theta, positions: Positions, system: System) -> Progress:
    """Before the first step."""
    return Progress(*relaxation.carry(relaxation.init(theta, positions, system)), jnp.asarray(False))


def nothing(state: RelaxState, info: RelaxInfo) -> PyTree:
    """Record nothing."""
    del state, info
    return ()


def whole_path(state: RelaxState, info: RelaxInfo) -> PyTree:
    """Record positions and cell with their energy and largest force."""
    return state.positions, state.cell, info.energy, info.max_force


def settle(relaxation: Relaxation, num_steps: int, chunk: int, record: RecordFn = nothing) -> SettleFn:
    """Build a function that relaxes one structure as far as it can, for at most ``chunk`` evaluations.

    The end is evaluated too, as ASE does it: after the last step, energy and forces are those of where it ended, and
    the structure counts as converged if they say so.

    Args:
        relaxation: from `relax.relaxation`.
        num_steps: largest number of displacements, over all calls.
        chunk: evaluations per call.
        record: what to keep of each configuration; its energy and largest force are its own.

    Returns:
        (theta, progress, system) -> (progress, visits); identity on what is finished or stale.
    """

    def one(theta: Theta, progress: Progress, system: System) -> tuple[Progress, Array, Carry]:
        state, info, _ = progress
        may_move = (state.outcome == Outcome.RUNNING) & (state.steps < num_steps)
        moved = relaxation.advance(relaxation.evaluate, theta, Carry(set_running(state), info), system)
        reached = moved.state
        arrived = (reached.outcome == Outcome.CONVERGED) & (reached.steps == state.steps)
        seen = reached.outcome < Outcome.STALE_NEIGHBORS
        # Where no step may be made, the evaluation counts and the step that went with it does not.
        here = moved.info._replace(step_norm=info.step_norm)
        outcome = jnp.where(seen, jnp.where(arrived, Outcome.CONVERGED, state.outcome), reached.outcome)
        evaluated = Carry(state._replace(outcome=outcome.astype(state.outcome.dtype)), here)
        over = ~may_move | arrived | (reached.outcome == Outcome.NOT_FINITE)
        finished = over & (reached.outcome != Outcome.STALE_NEIGHBORS)
        after = where(may_move, moved, evaluated)
        return Progress(after.state, after.info, finished), seen, Carry(state, here)

    def run(theta: Theta, progress: Progress, system: System) -> tuple[Progress, Visits]:
        kept = jax.eval_shape(record, progress.state, progress.info)
        buffers = jax.tree.map(lambda leaf: jnp.zeros((chunk, *leaf.shape), leaf.dtype), kept)

        def going(carry) -> Array:
            calls, progress, _ = carry
            stale = progress.state.outcome == Outcome.STALE_NEIGHBORS
            return ~progress.finished & ~stale & (calls < chunk)

        def body(carry):
            calls, progress, visits = carry
            progress, seen, here = one(theta, progress, system)
            # What could not be evaluated is overwritten by the next one, or not counted.
            kept = jax.tree.map(lambda rows, row: rows.at[visits.count].set(row), visits.kept, record(*here))
            return calls + 1, progress, Visits(visits.count + seen.astype(jnp.int32), kept)

        zero = jnp.zeros((), jnp.int32)
        _, progress, visits = lax.while_loop(going, body, (zero, progress, Visits(zero, buffers)))
        return progress, visits

    return run
