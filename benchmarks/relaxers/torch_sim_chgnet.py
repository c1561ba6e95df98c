"""torch-sim's FIRE over all structures side by side, on the chgnet package's model.

torch-sim has no CHGNet of its own: here its model interface is filled with the chgnet package's graphs and forward
pass, several structures in one pass, as torch-sim would.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch_sim
from chgnet.model import CHGNet
from pymatgen.core import Structure as Crystal
from torch_sim.models.interface import ModelInterface

from benchmarks.relaxers.contract import MODEL, Ended, Task
from bptt_relax import io
from bptt_relax.systems import Structure


class _Model(ModelInterface):
    """CHGNet as torch-sim calls a model: energies (S,) eV and forces (N, 3) eV/angstrom of S systems."""

    def __init__(self):
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), torch.float32
        self._compute_stress, self._compute_forces = False, True
        self.chgnet = CHGNet.load(model_name=MODEL.removeprefix("chgnet-"), use_device="cpu", verbose=False)
        self.systems_seen = 0

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        positions, species = state.positions.detach().numpy(), state.atomic_numbers.numpy()
        # Cells are stored by column.
        cells, of = state.cell.detach().numpy().swapaxes(1, 2), state.system_idx.numpy()
        graphs = [
            self.chgnet.graph_converter(
                Crystal(cell, species[of == k], positions[of == k], coords_are_cartesian=True)
            )
            for k, cell in enumerate(cells)
        ]
        self.systems_seen += len(graphs)
        found = self.chgnet.predict_graph(graphs, task="ef", batch_size=len(graphs))
        found = [found] if isinstance(found, dict) else found
        sizes = np.bincount(of) if self.chgnet.is_intensive else np.ones(len(graphs))
        return {
            "energy": torch.tensor([float(f["e"]) * n for f, n in zip(found, sizes, strict=True)]),
            "forces": torch.tensor(np.concatenate([f["f"] for f in found])),
        }


class TorchSimChgnet:
    """torch-sim with the chgnet package's model."""

    def __init__(self, given: Sequence[Structure], task: Task):
        self._given, self._task = given, task
        self._model = _Model()

    def relax(self, indices: Sequence[int]) -> dict[int, Ended]:
        """See `Relaxer.relax`; steps are those of the average structure, torch-sim does not count each one's."""
        converged = torch_sim.generate_force_convergence_fn(self._task.fmax, include_cell_forces=False)
        before = self._model.systems_seen
        with warnings.catch_warnings():
            # It tells that it is out of steps, which the answer does too.
            warnings.simplefilter("ignore")
            final = torch_sim.optimize(
                [io.to_atoms(self._given[index]) for index in indices],
                self._model,
                optimizer=torch_sim.optimizers.fire,
                convergence_fn=converged,
                max_steps=self._task.steps,
                steps_between_swaps=1,
            )
        steps = round((self._model.systems_seen - before) / len(indices)) - 1
        done = converged(final).tolist()
        energies = final.energy.tolist()
        return {
            index: Ended(energy, steps, bool(ok))
            for index, energy, ok in zip(indices, energies, done, strict=True)
        }
