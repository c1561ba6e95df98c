"""A relaxation at fixed cell: potential + update rule + stop, as pure functions on jax-md shift functions."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jax_md import space

from bptt_relax import neighbors
from bptt_relax._types import Displacement, Positions
from bptt_relax.outcomes import Outcome
from bptt_relax.potentials import ApplyFn, Potential
from bptt_relax.relax._contract import EvaluateFn, Evaluation, Relaxation, RelaxState, UpdateRule
from bptt_relax.trees import all_finite, safe_norm, where

ShiftFn = Callable[[Positions, Displacement], Positions]

_, unwrapped = space.free()
"""jax-md's shift for free space: positions stay unwrapped, so displacements need no image bookkeeping."""


def relaxation(
    potential: Potential,
    rule: UpdateRule,
    *,
    force_tolerance: float = 0.0,
    step_tolerance: float = 0.0,
    shift: ShiftFn = unwrapped,
) -> Relaxation:
    """Build the relaxation x <- shift(x, rule(forces(x))).

    A structure that has converged is frozen by a mask; the decision to stop carries no gradient.

    Args:
        potential: what gives the forces.
        rule: what turns forces into displacements.
        force_tolerance: stop, before moving, once the largest force is below this, eV/angstrom; 0 never stops.
        step_tolerance: stop, after moving, once the Euclidean norm of a displacement is below this, angstrom;
            0 never stops.
        shift: a jax-md shift function, how positions move.

    Raises:
        ValueError: a tolerance is negative.
    """
    for name, value in (("force_tolerance", force_tolerance), ("step_tolerance", step_tolerance)):
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")

    def init(theta, positions, system) -> RelaxState:
        dtype = positions.dtype
        return RelaxState(
            positions=positions,
            cell=system.cell,
            rule=rule.init(theta.rule, system),
            steps=jnp.zeros((), jnp.int32),
            outcome=jnp.full((), Outcome.RUNNING, jnp.int32),
            energy=jnp.zeros((), dtype),
            max_force=jnp.full((), jnp.inf, dtype),
            step_norm=jnp.full((), jnp.inf, dtype),
        )

    def advance(evaluate, theta, state, system) -> RelaxState:
        def move(state: RelaxState) -> RelaxState:
            here = evaluate(theta, state.positions, state.cell, system)
            asked, rule_state = rule.update(theta.rule, here.forces, state.rule, system)
            displacement = jnp.where(system.free, asked, 0.0)
            max_force = lax.stop_gradient(jnp.max(safe_norm(here.forces)))
            step_norm = lax.stop_gradient(jnp.sqrt(jnp.sum(displacement**2)))

            finite = all_finite((here.forces, displacement))
            arrived = max_force < force_tolerance
            moves = finite & ~here.overflow & ~arrived
            outcome = jnp.where(moves & (step_norm >= step_tolerance), Outcome.RUNNING, Outcome.CONVERGED)
            outcome = jnp.where(finite, outcome, Outcome.NOT_FINITE)
            outcome = jnp.where(here.overflow, Outcome.STALE_NEIGHBORS, outcome)
            moved = RelaxState(
                positions=shift(state.positions, displacement),
                cell=state.cell,
                rule=rule_state,
                steps=state.steps + 1,
                outcome=state.outcome,
                energy=here.energy,
                max_force=max_force,
                step_norm=step_norm,
            )
            stayed = state._replace(energy=here.energy, max_force=max_force)
            chosen = where(moves, moved, stayed)
            return chosen._replace(outcome=outcome.astype(jnp.int32))

        # Not a mask but a branch: a frozen structure costs nothing (under vmap it becomes a mask).
        return lax.cond(state.outcome == Outcome.RUNNING, move, lambda s: s, state)

    lean = potential.apply_lean
    return Relaxation(
        init,
        advance,
        _evaluation(potential.apply),
        potential.conservative,
        None if lean is None else _evaluation(lean),
    )


def _evaluation(apply: ApplyFn) -> EvaluateFn:
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
