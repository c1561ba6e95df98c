"""How well a model relaxes: the metrics of one structure and of a set."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from bptt_relax import losses, neighbors
from bptt_relax.outcomes import Outcome
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import Pair
from bptt_relax.training.objectives import LabelledFrame
from bptt_relax.unrolling import relax_through_rebuilds, scalars, unroll

SAME_BASIN = 0.25
"""A structure is in the reference's basin when no atom ends further from its place than this, angstrom."""


@dataclass(frozen=True)
class Relaxed:
    """Where a model's relaxation of one structure ended, against the reference.

    Attributes:
        delta_q: sqrt(u) * angstrom.
        rmsd: angstrom.
        max_displacement: angstrom.
        converged: the stop criterion was met.
        steps: displacements made.
        max_force: at the end, eV/angstrom, by the model.
        outcome: `outcomes.Outcome`.
        positions: (N, 3) angstrom, padded.
    """

    delta_q: float
    rmsd: float
    max_displacement: float
    converged: bool
    steps: int
    max_force: float
    outcome: int
    positions: np.ndarray

    @property
    def same_basin(self) -> bool:
        """The structure ended in the reference's basin."""
        return self.max_displacement < SAME_BASIN


RelaxFn = Callable[[Theta, Pair], Relaxed]


def make_relaxer(relaxation: Relaxation, num_steps: int) -> RelaxFn:
    """Build a host function that relaxes a pair's start and measures where it ends. Compiles once per layout."""
    run = jax.jit(unroll(relaxation, num_steps, record=scalars))

    @jax.jit
    def measure(positions, pair: Pair):
        arguments = (positions, pair.relaxed, pair.system)
        return losses.delta_q(*arguments), losses.rmsd(*arguments), losses.max_displacement(*arguments)

    def relax(theta: Theta, pair: Pair) -> Relaxed:
        start = relaxation.init(theta, pair.initial, pair.system)
        result, _ = relax_through_rebuilds(run, theta, start, pair.system)
        delta_q, rmsd, furthest = measure(result.state.positions, pair)
        return Relaxed(
            delta_q=float(delta_q),
            rmsd=float(rmsd),
            max_displacement=float(furthest),
            converged=int(result.outcome) == Outcome.CONVERGED,
            steps=int(result.state.steps),
            max_force=float(result.residual),
            outcome=int(result.outcome),
            positions=np.asarray(result.state.positions),
        )

    return relax


ForceErrorFn = Callable[[Theta, LabelledFrame], tuple[float, float]]


def make_force_error(potential: Potential) -> ForceErrorFn:
    """Build a function: mean absolute force error and largest predicted force of one labelled frame, eV/angstrom."""

    @jax.jit
    def errors(theta: Theta, frame: LabelledFrame):
        graph = neighbors.refresh(frame.system.candidates, frame.positions, frame.system.cell)
        forces = potential.apply(theta.potential, frame.positions, frame.system, graph).forces
        return losses.force_mae(forces, frame.forces, frame.system), losses.max_force(forces, frame.system)

    def evaluate(theta: Theta, frame: LabelledFrame) -> tuple[float, float]:
        error, largest = errors(theta, frame)
        return float(error), float(largest)

    return evaluate
