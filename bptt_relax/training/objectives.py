"""The two objectives: where relaxations end (BPTT), and forces and stresses along them (force matching)."""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax

from bptt_relax import losses, neighbors
from bptt_relax._types import Array, Forces, Params, Positions, Scalar, Stress
from bptt_relax.neighbors import Graph
from bptt_relax.outcomes import Outcome
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation, RelaxState, Theta
from bptt_relax.systems import Pair, System
from bptt_relax.training.train_step import Objective, ValueAndGradFn
from bptt_relax.unrolling import UnrolledFn, value_and_grad_through_rebuilds


class LabelledFrame(NamedTuple):
    """One configuration with reference forces.

    Attributes:
        positions: (N, 3) angstrom.
        forces: (N, 3) eV/angstrom, zero where padded.
        system: the structure, with neighbors.
        weights: (N,) weights of the atoms, for errors that take them; None for 1 each.
        key: random key for models that see noise in training; None for those that do not.
        stress: (3, 3) eV/angstrom^3, NaN where it is not known; None where it is not looked at.
    """

    positions: Positions
    forces: Forces
    system: System
    weights: Array | None = None
    key: Array | None = None
    stress: Stress | None = None


DistanceFn = Callable[[Positions, Positions, System], Scalar]
"""(positions, reference, system) -> () how far apart they are, sqrt(u) * angstrom."""


def relaxed_structure(
    relaxation: Relaxation,
    run: UnrolledFn,
    potential: Potential,
    *,
    distance: DistanceFn = losses.delta_q,
    anchor: Params | None = None,
    anchor_weight: float = 0.0,
    softening: float = 0.0,
    cell_weight: float = 1.0,
) -> Objective:
    """Distance between where the relaxation ends and the reference structure.

    Where the cell is relaxed too (``pair.relaxed_cell``) it is `losses.structure_distance`, which counts the cell.

    Args:
        relaxation: gives the start; moves the cell or not, as the pairs want it (`by_cell` takes both).
        run: from `unrolling.unroll`.
        potential: for the anchor.
        distance: Delta Q, or another one.
        anchor: parameters of the pretrained potential.
        anchor_weight: weight of the mean squared force difference between the potential and its pretrained self
            at the reference structure, sqrt(u) * angstrom / (eV/angstrom)^2.
        softening: distance below which the loss is quadratic (`losses.pseudo_huber`), sqrt(u) * angstrom; 0 for
            the distance itself.
        cell_weight: weight of the strain of the cell in the distance.
    """

    def forces(params: Params, pair: Pair) -> Forces:
        cell = pair.system.cell if pair.relaxed_cell is None else pair.relaxed_cell
        graph = neighbors.refresh(pair.system.candidates, pair.relaxed, cell)
        return potential.apply(params, pair.relaxed, pair.system._replace(cell=cell), graph).forces

    def apart(state: RelaxState, pair: Pair) -> Scalar:
        if pair.relaxed_cell is None:
            return distance(state.positions, pair.relaxed, pair.system)
        ends = (state.positions, state.cell, pair.relaxed, pair.relaxed_cell)
        return losses.structure_distance(*ends, pair.system, cell_weight=cell_weight, distance=distance)

    def end_loss(theta: Theta, state: RelaxState, pair: Pair) -> Array:
        if relaxation.moves_cell != (pair.relaxed_cell is not None):
            raise ValueError(
                "a pair with a relaxed_cell needs relax.variable_cell_relaxation, one without relax.relaxation: "
                "combine the two objectives with by_cell"
            )
        value = losses.pseudo_huber(apart(state, pair), softening)
        if anchor_weight:
            drift = losses.force_mse(
                forces(theta.potential, pair), lax.stop_gradient(forces(anchor, pair)), pair.system
            )
            value = value + anchor_weight * drift
        return value

    def loss(theta: Theta, pair: Pair):
        result = run(theta, relaxation.init(theta, pair.initial, pair.system), pair.system)
        return end_loss(theta, result.state, pair), result.outcome

    run_alone = jax.jit(run)

    def through_rebuilds(theta: Theta, pair: Pair):
        return value_and_grad_through_rebuilds(
            run_alone,
            lambda theta, end, _: (end_loss(theta, end.state, pair), end.outcome),
            theta,
            relaxation.init(theta, pair.initial, pair.system),
            pair.system,
        )

    return Objective(jax.value_and_grad(loss, has_aux=True), through_rebuilds)


def by_cell(fixed: Objective, free: Objective) -> Objective:
    """One objective for pairs in a given cell and another for those whose cell is relaxed; the pair says which.

    Args:
        fixed: of a relaxation at fixed cell.
        free: of a variable-cell relaxation.
    """

    def of(pair: Pair) -> Objective:
        return fixed if pair.relaxed_cell is None else free

    rebuilds = None
    if fixed.through_rebuilds is not None and free.through_rebuilds is not None:
        rebuilds = lambda theta, pair: cast(ValueAndGradFn, of(pair).through_rebuilds)(theta, pair)  # noqa: E731
    return Objective(lambda theta, pair: of(pair).value_and_grad(theta, pair), rebuilds, label=fixed.label)


ForceErrorFn = Callable[[Forces, LabelledFrame], Scalar]
"""(predicted forces, frame) -> () error of one frame."""

TrainedForcesFn = Callable[[Params, LabelledFrame, Graph], Forces]
"""(params, frame, graph) -> (N, 3) forces as training sees them."""


def force_matching(
    potential: Potential,
    *,
    delta: float = 0.1,
    error: ForceErrorFn | None = None,
    forces: TrainedForcesFn | None = None,
    stress_weight: float = 0.0,
) -> Objective:
    """Force error of one labelled frame, and that of its stress where it is wanted.

    Args:
        potential: to be trained.
        delta: where the Huber loss turns linear, eV/angstrom.
        error: another error than the Huber loss.
        forces: what to train where that is not the prediction, as with dropout.
        stress_weight: weight of the stress, as twice the virial per atom, in frames that have one.

    Raises:
        ValueError: stresses are to be matched, and something else than the prediction is trained.
    """
    if stress_weight and forces is not None:
        raise ValueError(
            "stress_weight goes with the prediction: forces= trains something that has no stress"
        )
    apply = potential.apply if potential.apply_lean is None else potential.apply_lean

    def predicted(params: Params, frame: LabelledFrame, graph: Graph) -> Forces:
        return apply(params, frame.positions, frame.system, graph).forces

    def huber(found: Forces, frame: LabelledFrame) -> Scalar:
        return losses.force_huber(found, frame.forces, frame.system, delta=delta)

    measure, trained = error or huber, forces or predicted

    def loss(theta: Theta, frame: LabelledFrame):
        params = theta.potential
        graph = neighbors.refresh(frame.system.candidates, frame.positions, frame.system.cell)
        outcome = jnp.where(graph.overflow, Outcome.STALE_NEIGHBORS, Outcome.CONVERGED)
        if not stress_weight or frame.stress is None:
            return measure(trained(params, frame, graph), frame), outcome
        here = apply(params, frame.positions, frame.system, graph)
        if here.stress is None:
            raise ValueError(f"{potential.name} predicts no stress to match: take stress_weight=0")
        of_stress = losses.virial_huber(here.stress, frame.stress, frame.system, delta=delta)
        return measure(here.forces, frame) + stress_weight * of_stress, outcome

    return Objective(jax.value_and_grad(loss, has_aux=True))
