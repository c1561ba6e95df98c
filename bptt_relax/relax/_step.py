"""What every relaxation does around its own way of moving: start, evaluate, and decide how a step ends."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from bptt_relax import neighbors
from bptt_relax._types import Array, Cell, Positions, PyTree, Scalar
from bptt_relax.outcomes import Outcome
from bptt_relax.potentials import ApplyFn
from bptt_relax.relax._contract import AdvanceFn, EvaluateFn, Evaluation, RelaxState, Theta
from bptt_relax.systems import System
from bptt_relax.trees import all_finite, where


def initial_state(positions: Positions, cell: Cell, rule_state: PyTree) -> RelaxState:
    """The state before the first step.

    Args:
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom.
        rule_state: what the way of moving remembers.
    """
    dtype = positions.dtype
    return RelaxState(
        positions=positions,
        cell=cell,
        rule=rule_state,
        steps=jnp.zeros((), jnp.int32),
        # Not full((), RUNNING): an enum makes a weak type, and the state after a step has none: two compilations.
        outcome=jnp.asarray(Outcome.RUNNING, jnp.int32),
        energy=jnp.zeros((), dtype),
        max_force=jnp.full((), jnp.inf, dtype),
        step_norm=jnp.full((), jnp.inf, dtype),
    )


def set_running(state: RelaxState) -> RelaxState:
    """The same state, no longer frozen."""
    return state._replace(outcome=jnp.full_like(state.outcome, int(Outcome.RUNNING)))


def evaluation(apply: ApplyFn) -> EvaluateFn:
    """Evaluate a potential on neighbors refreshed where the structure stands, and mask what may not move."""

    def evaluate(theta, positions, cell, system) -> Evaluation:
        if system.candidates is None:
            raise ValueError(
                "the system has no neighbors: call systems.with_neighbors(positions, system, potential.graph)"
            )
        graph = neighbors.refresh(system.candidates, positions, cell)
        prediction = apply(theta.potential, positions, system._replace(cell=cell), graph)
        forces = jnp.where(system.free, prediction.forces, 0.0)
        energy = prediction.energy
        if energy is None:
            # A state holds a number; this one cannot pass for an energy, and being constant it has no gradient.
            energy = jnp.full((), jnp.nan, forces.dtype)
        return Evaluation(energy, forces, prediction.stress, graph.overflow)

    return evaluate


class Proposal(NamedTuple):
    """The step that a way of moving would make, and what it sees where the step starts.

    Attributes:
        here: what the potential says there.
        positions: (N, 3) angstrom, after the step.
        cell: (3, 3) angstrom, after the step.
        rule: memory after the step.
        kept: memory if the step is not made.
        max_force: () eV/angstrom, the largest force on what may move.
        step_norm: () angstrom, length of the step.
        arrived: () bool, the largest force and whatever else counts are below their tolerances.
    """

    here: Evaluation
    positions: Positions
    cell: Cell
    rule: PyTree
    kept: PyTree
    max_force: Scalar
    step_norm: Scalar
    arrived: Array


ProposeFn = Callable[[EvaluateFn, Theta, RelaxState, System], Proposal]
"""(evaluate, theta, state, system) -> the step that would be made from there."""


def advancing(propose: ProposeFn, *, step_tolerance: float) -> AdvanceFn:
    """Make the steps that are proposed until one need not or can't be made, and say why; the stop has no gradient.

    Args:
        propose: the way of moving.
        step_tolerance: converged, after a step, once it was shorter than this, angstrom.
    """

    def move(evaluate: EvaluateFn, theta: Theta, state: RelaxState, system: System) -> RelaxState:
        step = propose(evaluate, theta, state, system)
        seen = {"energy": step.here.energy, "max_force": lax.stop_gradient(step.max_force)}
        stayed = state._replace(rule=step.kept, **seen)
        moved = RelaxState(
            positions=step.positions,
            cell=step.cell,
            rule=step.rule,
            steps=state.steps + 1,
            outcome=state.outcome,
            step_norm=lax.stop_gradient(step.step_norm),
            **seen,
        )
        finite = all_finite((step.here.forces, moved.positions, moved.cell))
        moves = finite & ~step.here.overflow & ~step.arrived
        outcome = jnp.where(moves & (moved.step_norm >= step_tolerance), Outcome.RUNNING, Outcome.CONVERGED)
        outcome = jnp.where(finite, outcome, Outcome.NOT_FINITE)
        outcome = jnp.where(step.here.overflow, Outcome.STALE_NEIGHBORS, outcome)
        return where(moves, moved, stayed)._replace(outcome=outcome.astype(jnp.int32))

    def advance(evaluate: EvaluateFn, theta: Theta, state: RelaxState, system: System) -> RelaxState:
        # Not a mask but a branch: a frozen structure costs nothing (under vmap it becomes a mask).
        return lax.cond(
            state.outcome == Outcome.RUNNING,
            lambda state: move(evaluate, theta, state, system),
            lambda state: state,
            state,
        )

    return advance


def check_tolerances(**tolerances: float) -> None:
    """Raise when a tolerance is negative.

    Raises:
        ValueError: with the tolerance's name.
    """
    for name, value in tolerances.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
