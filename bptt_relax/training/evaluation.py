"""How well a model relaxes: the metrics of one structure and of a set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax import losses
from bptt_relax._types import Cell, Positions, Scalar
from bptt_relax.batches import Bucket, RelaxMany
from bptt_relax.neighbors import GraphSpec
from bptt_relax.potentials import Prediction
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import Pair, Structure
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
        cell: (3, 3) angstrom, where it was relaxed too; None where it was given, like all that follows. Delta Q and
            what is like it are then measured in the reference's cell (`losses.carry`).
        volume_change: V / V* - 1.
        cell_strain: `losses.cell_strain`.
        cell_delta_q: `losses.cell_delta_q`, sqrt(u) * angstrom.
    """

    delta_q: float
    rmsd: float
    max_displacement: float
    converged: bool
    steps: int
    max_force: float
    outcome: int
    positions: np.ndarray
    cell: np.ndarray | None = None
    volume_change: float | None = None
    cell_strain: float | None = None
    cell_delta_q: float | None = None

    def distance(self, cell_weight: float = 1.0) -> float:
        """Delta Q, together with that of the cell where it was relaxed (`losses.structure_distance`)."""
        return float(np.hypot(self.delta_q, cell_weight * (self.cell_delta_q or 0.0)))

    @property
    def same_basin(self) -> bool:
        """The structure ended in the reference's basin."""
        return self.max_displacement < SAME_BASIN


class Relaxer:
    """Relaxes without gradients, no step beyond convergence, several structures at once, and measures where they end.

    Args:
        relaxation: with the tolerance at which a structure counts as converged.
        spec: graph the potential asks for.
        num_steps: largest number of steps.
        skin: angstrom.
    """

    def __init__(self, relaxation: Relaxation, spec: GraphSpec, num_steps: int, *, skin: float):
        self._relax = RelaxMany(relaxation, spec, num_steps, skin=skin)
        self.prepare = self._relax.prepare

    def __call__(
        self,
        theta: Theta,
        starts: Sequence[Structure],
        pairs: Sequence[Pair],
        buckets: Sequence[Bucket] | None = None,
    ) -> Iterator[tuple[int, Relaxed]]:
        """Index and end of each pair, in the order in which they finish.

        Args:
            theta: the model.
            starts: on the host.
            pairs: the same, prepared, with their targets.
            buckets: in which layouts they are relaxed; planned when not given.
        """
        for final in self._relax(theta, starts, buckets=buckets):
            pair, positions = pairs[final.index], final.structure.positions
            padding = pair.relaxed.shape[0] - len(positions)
            padded = jnp.asarray(np.pad(positions, ((0, padding), (0, 0))), pair.relaxed.dtype)
            cell = jnp.asarray(final.structure.cell, padded.dtype)
            found = {key: float(value) for key, value in _distances(padded, cell, pair).items()}
            yield (
                final.index,
                Relaxed(
                    **found,
                    converged=final.converged,
                    steps=final.steps,
                    max_force=final.max_force,
                    outcome=int(final.outcome),
                    positions=positions,
                    cell=None if pair.relaxed_cell is None else final.structure.cell,
                ),
            )


@jax.jit
def _distances(positions: Positions, cell: Cell, pair: Pair) -> dict[str, Scalar]:
    """From where a relaxation ended to its reference."""
    system, of_cell = pair.system, {}
    if pair.relaxed_cell is not None:
        positions = losses.carry(positions, cell, pair.relaxed_cell)
        of_cell = {
            "volume_change": jnp.abs(jnp.linalg.det(cell) / jnp.linalg.det(pair.relaxed_cell)) - 1.0,
            "cell_strain": losses.cell_strain(cell, pair.relaxed_cell),
            "cell_delta_q": losses.cell_delta_q(cell, pair.relaxed_cell, system),
        }
        system = system._replace(cell=pair.relaxed_cell)
    arguments = (positions, pair.relaxed, system)
    return {
        "delta_q": losses.delta_q(*arguments),
        "rmsd": losses.rmsd(*arguments),
        "max_displacement": losses.max_displacement(*arguments),
        **of_cell,
    }


class FrameErrors(NamedTuple):
    """A model on one labelled frame.

    Attributes:
        force_mae: eV/angstrom.
        max_force: that the model predicts, eV/angstrom.
        energy: that the model predicts, eV; NaN where it predicts none.
        stress_mae: eV/angstrom^3; NaN where reference or model have none, like the last.
        pressure: that the model predicts, eV/angstrom^3.
    """

    force_mae: float
    max_force: float
    energy: float
    stress_mae: float
    pressure: float


def frame_errors(prediction: Prediction, frame: LabelledFrame) -> FrameErrors:
    """Errors of a prediction for one labelled frame; on the host."""
    return FrameErrors(*map(float, _errors(prediction, frame)))


@jax.jit
def _errors(prediction: Prediction, frame: LabelledFrame) -> tuple[Scalar, ...]:
    of_stress = pressure = unknown = jnp.full((), jnp.nan)
    if frame.stress is not None and prediction.stress is not None:
        of_stress = losses.stress_mae(prediction.stress, frame.stress)
        pressure = -jnp.trace(prediction.stress) / 3.0
    return (
        losses.force_mae(prediction.forces, frame.forces, frame.system),
        losses.max_force(prediction.forces, frame.system),
        unknown if prediction.energy is None else prediction.energy,
        of_stress,
        pressure,
    )
