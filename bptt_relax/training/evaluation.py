"""How well a model relaxes: the metrics of one structure and of a set."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax import losses, neighbors
from bptt_relax.batches import Bucket, relax_many
from bptt_relax.neighbors import GraphSpec
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import Layout, Pair, Structure
from bptt_relax.training.objectives import LabelledFrame

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
        positions: (n, 3) angstrom.
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


class RelaxFn(Protocol):
    """Relax the starts of pairs and measure where they end."""

    def __call__(
        self, theta: Theta, starts: Sequence[Structure], pairs: Sequence[Pair]
    ) -> Iterator[tuple[int, Relaxed]]:
        """Index and end of each pair, in the order in which they finish.

        Args:
            theta: the model.
            starts: on the host, of one layout.
            pairs: the same, prepared, with their targets.
        """
        ...


def make_relaxer(
    relaxation: Relaxation, spec: GraphSpec, layout: Layout, num_steps: int, *, skin: float
) -> RelaxFn:
    """Build a function that relaxes without gradients, no step beyond convergence, several structures at once.

    Args:
        relaxation: with the tolerance at which a structure counts as converged.
        spec: graph the potential asks for.
        layout: padded sizes that hold every structure; compiles once.
        num_steps: largest number of steps.
        skin: angstrom.
    """
    relax_all = relax_many(relaxation, spec, num_steps, skin=skin)

    @jax.jit
    def measure(positions, pair: Pair):
        arguments = (positions, pair.relaxed, pair.system)
        return losses.delta_q(*arguments), losses.rmsd(*arguments), losses.max_displacement(*arguments)

    def relax(theta, starts, pairs):
        bucket = Bucket(layout, tuple(range(len(starts))), work=1.0, padded=1.0)
        for final in relax_all(theta, starts, buckets=[bucket]):
            pair, positions = pairs[final.index], final.structure.positions
            padding = pair.relaxed.shape[0] - len(positions)
            padded = jnp.asarray(np.pad(positions, ((0, padding), (0, 0))), pair.relaxed.dtype)
            delta_q, rmsd, furthest = measure(padded, pair)
            yield (
                final.index,
                Relaxed(
                    delta_q=float(delta_q),
                    rmsd=float(rmsd),
                    max_displacement=float(furthest),
                    converged=final.converged,
                    steps=final.steps,
                    max_force=final.max_force,
                    outcome=int(final.outcome),
                    positions=positions,
                ),
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
