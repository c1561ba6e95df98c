"""jax-md's minimizers as relaxations, and relaxations as jax-md's minimizers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bptt_relax._types import Array, Displacement, Forces, Positions, PyTree
from bptt_relax.potentials import Potential
from bptt_relax.relax._contract import Carry, Relaxation, RelaxInfo, RelaxState, Theta
from bptt_relax.relax._step import Proposal, advancing, check_tolerances, evaluation, initial_state
from bptt_relax.relax.relaxation import unwrapped
from bptt_relax.systems import System
from bptt_relax.trees import cast, safe_norm, where

Minimizer = tuple[Callable[..., PyTree], Callable[..., PyTree]]
"""(init_fn, apply_fn): positions -> state, state -> state."""

MinimizerFactory = Callable[[Callable[..., Forces], Callable[..., Positions]], Minimizer]
"""(force_fn, shift_fn) -> minimizer."""


def from_jax_md(
    minimizer: MinimizerFactory,
    potential: Potential,
    *,
    force_tolerance: float = 0.0,
    step_tolerance: float = 0.0,
) -> Relaxation:
    """Relax with a minimizer of jax-md, for example ``partial(jax_md.minimize.gradient_descent, step_size=0.05)``.

    What is done about the faults of ``fire_descent``:
    - its gradient is NaN where all forces are zero, in a vmapped batch for all structures: here such a structure
      counts as converged, and what is not used of the step is computed from harmless numbers;
    - its time step and mixing become float16: they are carried in the precision of the positions. The constants
      themselves stay rounded to float16 (0.1 is 0.09998);
    - one time step and one norm for all that is concatenated: a `System` is one structure, with its own;
    - its largest time step of 0.4 is beyond 2 / sqrt(L) for most solids, and gradients explode: pass ``dt_max``;
    - a traced ``dt_start`` raises: nothing here is learnable. `fire` has none of these.
    Minimizers of positions and cell are refused: their gradients are biased. Take `variable_cell_relaxation`.

    A step evaluates the potential where it starts, and wherever the minimizer does.

    Args:
        minimizer: (force_fn, shift_fn) -> (init_fn, apply_fn); called anew in every trace, so it must be cheap.
        potential: what gives the forces.
        force_tolerance: stop, before moving, once the largest force is below this, eV/angstrom, or zero.
        step_tolerance: stop, after moving, once the Euclidean norm of a displacement is below this, angstrom.

    Raises:
        ValueError: a tolerance is negative, or the minimizer can't be used.
    """
    check_tolerances(force_tolerance=force_tolerance, step_tolerance=step_tolerance)
    _check(minimizer)
    evaluate_here = evaluation(potential.apply)

    def init(theta, positions, system) -> RelaxState:
        def forces(R, **unused):
            del unused
            return evaluate_here(theta, R, system.cell, system).forces

        state = minimizer(forces, unwrapped)[0](positions)
        return initial_state(positions, system.cell, cast(state, positions.dtype))

    def propose(evaluate, theta, state, system) -> Proposal:
        def forces(R, **unused):
            del unused
            return evaluate(theta, R, state.cell, system).forces

        def masked_shift(R: Positions, dR: Displacement, **unused) -> Positions:
            return unwrapped(R, jnp.where(system.free, dR, 0.0), **unused)

        here = evaluate(theta, state.positions, state.cell, system)
        max_force = lax.stop_gradient(jnp.max(safe_norm(here.forces)))
        arrived = (max_force < force_tolerance) | (max_force == 0)
        # What a minimizer keeps of the forces is computed here again: an initial state made outside a gradient,
        # or on a list that has been rebuilt since, would know neither theta nor the new neighbors.
        kept = _with(state.rule, position=state.positions, force=here.forces)
        harmless = jax.tree.map(lambda x: jnp.full_like(x, 1e-3), kept)
        harmless = _with(harmless, position=state.positions)
        before = where(arrived, harmless, kept)
        after = minimizer(forces, masked_shift)[1](before)
        after = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), after, before)
        positions = _position(after)
        there = evaluate(theta, positions, state.cell, system)
        return Proposal(
            here=here._replace(overflow=here.overflow | (there.overflow & ~arrived)),
            positions=positions,
            cell=state.cell,
            rule=after,
            max_force=max_force,
            step_norm=jnp.sqrt(jnp.sum(lax.stop_gradient(positions - state.positions) ** 2)),
            arrived=arrived,
        )

    lean = potential.apply_lean
    return Relaxation(
        init,
        advancing(propose, step_tolerance=step_tolerance),
        evaluate_here,
        potential.conservative,
        None if lean is None else evaluation(lean),
    )


class JaxMDState(NamedTuple):
    """State of `to_jax_md`: a relaxation's, with the attribute that jax-md's own states have.

    Attributes:
        relaxation: all that is carried.
        info: what the last step reported.
    """

    relaxation: RelaxState
    info: RelaxInfo

    @property
    def position(self) -> Positions:
        """(N, 3) angstrom."""
        return self.relaxation.positions


def to_jax_md(relaxation: Relaxation, theta: Theta, system: System) -> Minimizer:
    """A relaxation as jax-md's pair of functions, to be dropped into code written for its minimizers.

    Args:
        relaxation: any.
        theta: parameters.
        system: with neighbors. When they become stale the state is frozen and ``state.relaxation.outcome`` says so.

    Returns:
        init_fn(positions) -> state and apply_fn(state) -> state. Positions are Cartesian, angstrom, unwrapped. Both
        ignore keywords, which jax-md uses to pass neighbors.
    """

    def init_fn(R: Positions, **unused) -> JaxMDState:
        del unused
        return JaxMDState(*relaxation.carry(relaxation.init(theta, R, system)))

    def apply_fn(state: JaxMDState, **unused) -> JaxMDState:
        del unused
        return JaxMDState(*relaxation.advance(relaxation.evaluate, theta, Carry(*state), system))

    return init_fn, apply_fn


def _position(state: PyTree) -> Positions:
    """Gradient descent's state is the positions themselves; the others' has them."""
    return state.position if hasattr(state, "position") else state


def _with(state: PyTree, *, position: Array, force: Array | None = None) -> PyTree:
    """Replace positions and, where the minimizer keeps them, forces."""
    if not hasattr(state, "position"):
        return position
    state = state.set(position=position)
    return state.set(force=force) if force is not None and hasattr(state, "force") else state


def _check(minimizer: MinimizerFactory) -> None:
    """Try the minimizer on two atoms in a harmonic well."""
    where_from = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)))

    def step(R: Positions) -> tuple[Any, Any]:
        init_fn, apply_fn = minimizer(lambda R, **_: -R, lambda R, dR, **_: R + dR)
        before = cast(init_fn(R), R.dtype)
        return before, apply_fn(before)

    try:
        before, after = jax.eval_shape(step, where_from)
    except Exception as error:
        raise ValueError(
            "minimizer must be (force_fn, shift_fn) -> (init_fn, apply_fn) as jax_md.minimize.gradient_descent with "
            "its step size bound (functools.partial). One of positions and cell is refused, as its gradients are "
            f"biased: take relax.variable_cell_relaxation. Trying it on two atoms said: {error}"
        ) from error
    shapes = [jax.tree.map(jnp.shape, state) for state in (before, after)]
    if shapes[0] != shapes[1] or jnp.shape(_position(after)) != where_from.shape:
        raise ValueError(
            "minimizer changes the shape of its state, as one does that needs energies (precon_fire_descent with "
            f"use_armijo=True): {shapes[0]} became {shapes[1]}"
        )
