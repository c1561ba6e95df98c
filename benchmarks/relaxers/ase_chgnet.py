"""What is used today: ASE's FIRE on the chgnet package's calculator, structure after structure."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from benchmarks.relaxers.contract import MODEL, Ended, Task
from bptt_relax import io
from bptt_relax.systems import Structure


class AseChgnet:
    """ASE with the chgnet package."""

    def __init__(self, given: Sequence[Structure], task: Task):
        from chgnet.model import CHGNet, CHGNetCalculator

        model = CHGNet.load(model_name=MODEL.removeprefix("chgnet-"), verbose=False)
        self._calculator = CHGNetCalculator(model)
        self._given, self._task = given, task

    def relax(self, indices: Sequence[int]) -> dict[int, Ended]:
        """See `Relaxer.relax`."""
        from ase.optimize import FIRE

        found = {}
        for index in indices:
            atoms: Atoms = io.to_atoms(self._given[index])
            atoms.calc = self._calculator
            optimizer = FIRE(atoms, logfile=None)
            converged = optimizer.run(fmax=self._task.fmax, steps=self._task.steps)
            energy = float(np.asarray(atoms.get_potential_energy()))
            found[index] = Ended(energy, optimizer.nsteps, bool(converged))
        return found
