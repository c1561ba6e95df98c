"""The contracts of a relaxation, documented once: update rule, state, relaxation, and what is learnable."""

from typing import NamedTuple, Protocol

import jax.numpy as jnp

from bptt_relax._types import (
    Array,
    Cell,
    Displacement,
    Energy,
    Forces,
    Params,
    Positions,
    PyTree,
    Scalar,
    Stress,
)
from bptt_relax.systems import System


class Theta(NamedTuple):
    """Everything learnable, in one pytree, always the first argument.

    Attributes:
        potential: parameters of the potential.
        rule: hyperparameters of the update rule, stored unconstrained (`relax.hyper`).
    """

    potential: Params
    rule: PyTree


class RuleInitFn(Protocol):
    """Start the memory of a rule."""

    def __call__(self, hyper: PyTree, system: System) -> PyTree:
        """State of the rule before the first step."""
        ...


class RuleUpdateFn(Protocol):
    """Turn forces into a displacement."""

    def __call__(
        self, hyper: PyTree, forces: Array, rule_state: PyTree, system: System
    ) -> tuple[Displacement, PyTree]:
        """One update.

        Args:
            hyper: hyperparameters, unconstrained.
            forces: (N, 3) eV/angstrom; inside a chain, whatever the rule before made of them.
            rule_state: from `RuleInitFn` or the previous update.
            system: masks, masses and species.

        Returns:
            displacement (N, 3) angstrom and the new state.
        """
        ...


class UpdateRule(NamedTuple):
    """How forces become a step: two pure functions and the hyperparameters they start from.

    Attributes:
        hyper: pytree of unconstrained floats, () each; the ``rule`` part of `Theta`.
        init: (hyper, system) -> rule_state.
        update: (hyper, forces, rule_state, system) -> (displacement, rule_state).
    """

    hyper: PyTree
    init: RuleInitFn
    update: RuleUpdateFn


class RelaxState(NamedTuple):
    """What a relaxation carries from step to step.

    Attributes:
        positions: (N, 3) angstrom, unwrapped.
        cell: (3, 3) angstrom.
        rule: state of the update rule.
        steps: () int, displacements made so far.
        outcome: () int, `outcomes.Outcome`; anything but RUNNING freezes the structure.
    """

    positions: Positions
    cell: Cell
    rule: PyTree
    steps: Array
    outcome: Array


class RelaxInfo(NamedTuple):
    """What the last step of a relaxation reports; no step reads it.

    Attributes:
        energy: () eV, at the positions the step started from; NaN where the potential has none, and before any step.
        max_force: () eV/angstrom, likewise; over free components. Infinite before any step.
        step_norm: () angstrom, Euclidean norm of the last displacement; infinite before any.
        max_stress: () eV/angstrom^3, as ``max_force``, largest component of what is left of the stress; None where the
            cell is fixed.
    """

    energy: Scalar
    max_force: Scalar
    step_norm: Scalar
    max_stress: Scalar | None = None


class Carry(NamedTuple):
    """What loops over steps pass on: the state, and the last report, which is all that a frozen structure has.

    Attributes:
        state: carried.
        info: reported.
    """

    state: RelaxState
    info: RelaxInfo


class Evaluation(NamedTuple):
    """A prediction together with whether its neighbors could be trusted.

    Attributes:
        energy: () eV; a constant NaN where the potential has none.
        forces: (N, 3) eV/angstrom, zero where an atom may not move.
        stress: (3, 3) eV/angstrom^3 or None.
        overflow: () bool, the neighbor list missed something.
    """

    energy: Energy
    forces: Forces
    stress: Stress | None
    overflow: Array


class EvaluateFn(Protocol):
    """Evaluate the potential where a relaxation stands."""

    def __call__(self, theta: Theta, positions: Positions, cell: Cell, system: System) -> Evaluation:
        """Energy, forces and stress at these positions, on neighbors refreshed for them."""
        ...


class AdvanceFn(Protocol):
    """One step, given how to evaluate the potential."""

    def __call__(self, evaluate: EvaluateFn, theta: Theta, carry: Carry, system: System) -> Carry:
        """The next state and what the step reports; the same as before if the structure is frozen."""
        ...


class RelaxInitFn(Protocol):
    """Start a relaxation."""

    def __call__(self, theta: Theta, positions: Positions, system: System) -> RelaxState:
        """State before the first step."""
        ...


class Relaxation(NamedTuple):
    """A relaxation as pure functions. `step` is what users compose; adjoints may evaluate differently.

    Attributes:
        init: (theta, positions, system) -> state.
        advance: (evaluate, theta, carry, system) -> carry.
        evaluate: (theta, positions, cell, system) -> Evaluation.
        conservative: forces are minus the gradient of the energy.
        evaluate_lean: the same function as ``evaluate`` with a cheaper backward pass and without forward mode
            (`Potential.apply_lean`); None where the potential has none.
        moves_cell: the cell is relaxed too, so that zero forces alone do not make a fixed point.
    """

    init: RelaxInitFn
    advance: AdvanceFn
    evaluate: EvaluateFn
    conservative: bool
    evaluate_lean: EvaluateFn | None = None
    moves_cell: bool = False

    def step(self, theta: Theta, state: RelaxState, system: System) -> Carry:
        """One step of the relaxation: the new state and what the step reports. A frozen structure stays as it is."""
        return self.advance(self.evaluate, theta, self.carry(state), system)

    def carry(self, state: RelaxState) -> Carry:
        """A state with nothing reported yet."""
        dtype = state.positions.dtype
        unknown = jnp.full((), jnp.inf, dtype)
        energy = jnp.full((), jnp.nan, dtype)
        return Carry(state, RelaxInfo(energy, unknown, unknown, unknown if self.moves_cell else None))
