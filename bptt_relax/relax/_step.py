"""What all relaxations share: the first state, the evaluation of the potential, and how a step ends."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from bptt_relax import neighbors
from bptt_relax._types import Array, Cell, Positions, PyTree, Scalar
from bptt_relax.outcomes import Outcome
from bptt_relax.potentials import ApplyFn
from bptt_relax.relax._contract import AdvanceFn, Carry, EvaluateFn, Evaluation, RelaxInfo, RelaxState, Theta
from bptt_relax.systems import System
from bptt_relax.trees import all_finite, where


def initial_state(positions: Positions, cell: Cell, rule_state: PyTree) -> RelaxState:
    """The state before the first step.

    Args:
        positions: (N, 3) angstrom.
        cell: (3, 3) angstrom.
        rule_state: state of the update rule, or of what takes its place.
    """
    return RelaxState(
        positions=positions,
        cell=cell,
        rule=rule_state,
        steps=jnp.zeros((), jnp.int32),
        # Not full((), RUNNING): an enum makes a weak type, and the state after a step has none: two compilations.
        outcome=jnp.asarray(Outcome.RUNNING, jnp.int32),
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
            # A report holds a number; this one cannot pass for an energy, and being constant it has no gradient.
            energy = jnp.full((), jnp.nan, forces.dtype)
        return Evaluation(energy, forces, prediction.stress, graph.overflow)

    return evaluate


class Proposal(NamedTuple):
    """The step that would be made, and what was evaluated where it starts.

    Attributes:
        here: energy, forces and stress there.
        positions: (N, 3) angstrom, after the step.
        cell: (3, 3) angstrom, after the step.
        rule: memory after the step.
        max_force: () eV/angstrom, the largest force on what may move.
        step_norm: () angstrom, length of the step.
        arrived: () bool, the largest force and whatever else counts are below their tolerances.
        max_stress: () eV/angstrom^3, where the cell moves.
    """

    here: Evaluation
    positions: Positions
    cell: Cell
    rule: PyTree
    max_force: Scalar
    step_norm: Scalar
    arrived: Array
    max_stress: Scalar | None = None


ProposeFn = Callable[[EvaluateFn, Theta, RelaxState, System], Proposal]
"""(evaluate, theta, state, system) -> the step that would be made from there."""


def advancing(propose: ProposeFn, *, step_tolerance: float) -> AdvanceFn:
    """Make proposed steps until converged, or until one can't be made, as the outcome says; the stop has no gradient.

    Args:
        propose: how a step is found.
        step_tolerance: converged, after a step, once it was shorter than this, angstrom.
    """

    def move(evaluate: EvaluateFn, theta: Theta, carry: Carry, system: System) -> Carry:
        state = carry.state
        step = propose(evaluate, theta, state, system)
        moved = RelaxState(step.positions, step.cell, step.rule, state.steps + 1, state.outcome)
        finite = all_finite((step.here.forces, moved.positions, moved.cell))
        moves = finite & ~step.here.overflow & ~step.arrived
        step_norm, max_force, max_stress = lax.stop_gradient(
            (step.step_norm, step.max_force, step.max_stress)
        )
        outcome = jnp.where(moves & (step_norm >= step_tolerance), Outcome.RUNNING, Outcome.CONVERGED)
        outcome = jnp.where(finite, outcome, Outcome.NOT_FINITE)
        outcome = jnp.where(step.here.overflow, Outcome.STALE_NEIGHBORS, outcome)
        info = RelaxInfo(
            energy=step.here.energy,
            max_force=max_force,
            step_norm=jnp.where(moves, step_norm, carry.info.step_norm),
            max_stress=max_stress,
        )
        return Carry(where(moves, moved, state)._replace(outcome=outcome.astype(jnp.int32)), info)

    def advance(evaluate: EvaluateFn, theta: Theta, carry: Carry, system: System) -> Carry:
        # Not a mask but a branch: a frozen structure costs nothing (under vmap it becomes a mask).
        return lax.cond(
            carry.state.outcome == Outcome.RUNNING,
            lambda carry: move(evaluate, theta, carry, system),
            lambda carry: carry,
            carry,
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
