"""The contracts of a relaxation, documented once: update rule, state, relaxation, and what is learnable."""

from typing import NamedTuple, Protocol

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
        energy: () eV, at the positions the last step started from; NaN where the potential has none.
        max_force: () eV/angstrom, likewise; over free components.
        step_norm: () angstrom, Euclidean norm of the last displacement.
    """

    positions: Positions
    cell: Cell
    rule: PyTree
    steps: Array
    outcome: Array
    energy: Scalar
    max_force: Scalar
    step_norm: Scalar


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

    def __call__(self, evaluate: EvaluateFn, theta: Theta, state: RelaxState, system: System) -> RelaxState:
        """The next state, or the same one if it is frozen."""
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
        advance: (evaluate, theta, state, system) -> state.
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

    def step(self, theta: Theta, state: RelaxState, system: System) -> RelaxState:
        """One step of the relaxation; the identity on a frozen structure."""
        return self.advance(self.evaluate, theta, state, system)
