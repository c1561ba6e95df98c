"""What every relaxation does around its own way of moving: start, evaluate, and decide how a step ends."""

import jax.numpy as jnp

from bptt_relax import neighbors
from bptt_relax._types import Array, Cell, Positions, PyTree
from bptt_relax.outcomes import Outcome
from bptt_relax.potentials import ApplyFn
from bptt_relax.relax._contract import EvaluateFn, Evaluation, RelaxState
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
        outcome=jnp.full((), Outcome.RUNNING, jnp.int32),
        energy=jnp.zeros((), dtype),
        max_force=jnp.full((), jnp.inf, dtype),
        step_norm=jnp.full((), jnp.inf, dtype),
    )


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
        return Evaluation(prediction.energy, forces, prediction.stress, graph.overflow)

    return evaluate


def conclude(
    moved: RelaxState, stayed: RelaxState, here: Evaluation, *, arrived: Array, step_tolerance: float
) -> RelaxState:
    """Choose between moving and staying, and say why; discrete, without gradient.

    Args:
        moved: the state after the step.
        stayed: the state without it.
        here: what the potential said where the step starts.
        arrived: () bool, nothing is left to do here.
        step_tolerance: converged once ``moved.step_norm`` is below this, angstrom.
    """
    finite = all_finite((here.forces, moved.positions, moved.cell))
    moves = finite & ~here.overflow & ~arrived
    outcome = jnp.where(moves & (moved.step_norm >= step_tolerance), Outcome.RUNNING, Outcome.CONVERGED)
    outcome = jnp.where(finite, outcome, Outcome.NOT_FINITE)
    outcome = jnp.where(here.overflow, Outcome.STALE_NEIGHBORS, outcome)
    return where(moves, moved, stayed)._replace(outcome=outcome.astype(jnp.int32))


def check_tolerances(**tolerances: float) -> None:
    """Raise when a tolerance is negative.

    Raises:
        ValueError: with the tolerance's name.
    """
    for name, value in tolerances.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
