"""A relaxation at fixed cell: potential + update rule + stop, as pure functions on jax-md shift functions."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from bptt_relax._types import Displacement, Positions
from bptt_relax.potentials import Potential
from bptt_relax.relax._contract import Relaxation, RelaxState, UpdateRule
from bptt_relax.relax._step import Proposal, advancing, check_tolerances, evaluation, initial_state
from bptt_relax.trees import safe_norm

ShiftFn = Callable[[Positions, Displacement], Positions]


def unwrapped(positions: Positions, displacement: Displacement, **unused) -> Positions:
    """jax-md's shift for free space: positions stay unwrapped, so displacements need no image bookkeeping."""
    del unused
    return positions + displacement


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
    check_tolerances(force_tolerance=force_tolerance, step_tolerance=step_tolerance)

    def init(theta, positions, system) -> RelaxState:
        return initial_state(positions, system.cell, rule.init(theta.rule, system))

    def propose(evaluate, theta, state, system) -> Proposal:
        here = evaluate(theta, state.positions, state.cell, system)
        asked, rule_state = rule.update(theta.rule, here.forces, state.rule, system)
        displacement = jnp.where(system.free, asked, 0.0)
        max_force = jnp.max(safe_norm(here.forces))
        return Proposal(
            here=here,
            positions=shift(state.positions, displacement),
            cell=state.cell,
            rule=rule_state,
            max_force=max_force,
            step_norm=jnp.sqrt(jnp.sum(lax.stop_gradient(displacement) ** 2)),
            arrived=max_force < force_tolerance,
        )

    lean = potential.apply_lean
    return Relaxation(
        init,
        advancing(propose, step_tolerance=step_tolerance),
        evaluation(potential.apply),
        potential.conservative,
        None if lean is None else evaluation(lean),
    )
