"""Where a model's relaxations end, and what it says along the reference's: validation scores and measurements.

Several processes divide the structures; each of them gets everything.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from bptt_relax import distributed
from bptt_relax.batches import PredictMany
from bptt_relax.finetuning import measurement
from bptt_relax.finetuning.measurement import Measurement, mean_of_known
from bptt_relax.finetuning.preparation import Preparation, ionic_steps
from bptt_relax.finetuning.relaxation import EvaluationForm, evaluated_relaxations
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.potentials import Potential
from bptt_relax.relax import Theta
from bptt_relax.training import FrameErrors, Relaxed, Relaxer, frame_errors


class Evaluator:
    """Measures models on a fixed set of relaxations.

    Args:
        preparation: of the relaxations.
        relaxations: to measure on.
        potential: the model's functions.
        form: the relaxation to evaluate with.
        predict: asks a model about ionic steps.

    Attributes:
        relaxations: by name.
    """

    def __init__(
        self,
        preparation: Preparation,
        relaxations: Sequence[Relaxation],
        potential: Potential,
        form: EvaluationForm,
        predict: PredictMany,
    ):
        self.relaxations = {r.name: r for r in relaxations}
        self._preparation = preparation
        self._relax = [
            None
            if chosen is None
            else Relaxer(chosen, preparation.spec, form.num_steps, skin=preparation.skin)
            for chosen in evaluated_relaxations(potential, form)
        ]
        self._predict = predict

    def distance(self, theta: Theta, names: Sequence[str], *, cell_weight: float = 1.0) -> float:
        """Mean over the named relaxations of Delta Q, with that of the cell where it moves: the validation score."""
        together = distributed.processes()
        mine = self._relaxed(theta, together.share(names))
        parts = together.gather({name: relaxed.distance(cell_weight) for name, relaxed in mine})
        found = dict(itertools.chain.from_iterable(part.items() for part in parts))
        return float(np.mean([found[name] for name in names]))

    def measure(
        self,
        theta: Theta,
        names: Sequence[str],
        on_structure: Callable[[str, Relaxed], None] = lambda *_: None,
    ) -> dict[str, Measurement]:
        """Measure everything on the named relaxations.

        Args:
            theta: the model.
            names: of relaxations.
            on_structure: told after each that this process relaxes, in the order in which they finish.

        Raises:
            Interrupted: ``on_structure`` did, in whichever process.
        """
        together = distributed.processes()

        def share() -> dict:
            found = {}
            for name, relaxed in self._relaxed(theta, together.share(names)):
                found[name] = self._measured(theta, self.relaxations[name], relaxed)
                on_structure(name, relaxed)
            return measurement.to_json(found)

        parts = together.each(share)
        found = dict(itertools.chain.from_iterable(measurement.from_json(part).items() for part in parts))
        return {name: found[name] for name in names}

    def prepare(self, theta: Theta, names: Sequence[str]) -> None:
        """Compile in the background what relaxing these needs."""
        for relax, chosen in self._by_cell(distributed.processes().share(names)):
            starts = [self.relaxations[name].initial for name in chosen]
            relax.prepare(theta, starts, self._preparation.bucketed(chosen))

    def _measured(self, theta: Theta, relaxation: Relaxation, relaxed: Relaxed) -> Measurement:
        frames = [self._preparation.frame(step) for step in ionic_steps(relaxation)]
        predictions = self._predict(theta.potential, [(f.positions, f.system) for f in frames])
        errors = [frame_errors(*each) for each in zip(predictions, frames, strict=True)]
        return _measurement(relaxation, relaxed, errors, self._preparation.move_cells)

    def _relaxed(self, theta: Theta, names: Sequence[str]) -> Iterator[tuple[str, Relaxed]]:
        """Where relaxations of the named structures end, as they finish."""
        for relax, chosen in self._by_cell(names):
            relaxations = [self.relaxations[name] for name in chosen]
            pairs = [self._preparation.pair(r) for r in relaxations]
            buckets = self._preparation.bucketed(chosen)
            for index, relaxed in relax(theta, [r.initial for r in relaxations], pairs, buckets):
                yield chosen[index], relaxed

    def _by_cell(self, names: Sequence[str]) -> Iterator[tuple[Relaxer, list[str]]]:
        """Those in a given cell and those with a free one, as far as there are some."""
        for moves_cell, relax in zip((False, True), self._relax, strict=True):
            chosen = [name for name in names if changes_cell(self.relaxations[name]) == moves_cell]
            if chosen:
                # check_cells refuses relaxations of the cell where the potential predicts no stress.
                assert relax is not None
                yield relax, chosen


def _measurement(
    relaxation: Relaxation, relaxed: Relaxed, errors: Sequence[FrameErrors], of_cells: bool
) -> Measurement:
    """One model on one structure, from where it ends and from the errors on the labelled ionic steps."""
    mae = mean_of_known([error.force_mae for error in errors]) if relaxation.forces is not None else None
    found = Measurement(relaxed, mae, errors[-1].max_force)
    if not of_cells or relaxation.forces is None:
        return found
    stress, energy = mean_of_known([error.stress_mae for error in errors]), None
    if relaxation.energies is not None:
        labelled = np.all(np.isfinite(relaxation.forces[relaxation.start :]), axis=(1, 2))
        reference = relaxation.energies[relaxation.start :][labelled]
        predicted = np.array([error.energy for error in errors])
        wrong = (predicted - predicted[-1]) - (reference - reference[-1])
        energy = mean_of_known(np.abs(wrong[:-1]) / len(relaxation.relaxed.species))
    pressure = errors[-1].pressure
    if relaxation.stresses is not None:
        pressure += np.trace(relaxation.stresses[-1]) / 3.0
    return replace(
        found,
        energy_mae=energy,
        stress_mae=stress,
        pressure_at_reference=float(pressure) if np.isfinite(pressure) else None,
    )
