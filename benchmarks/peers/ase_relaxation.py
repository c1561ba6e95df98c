"""ASE's FIRE with the chgnet package's calculator: how CHGNet relaxations are run today.

As many force evaluations as our forward relaxation makes. The calculator also builds a graph for every step, and
stress and magnetic moments, which nobody asked for here: that is what it does for its users too.
"""

import numpy as np
from ase.optimize import FIRE
from chgnet.model import CHGNet, CHGNetCalculator

from benchmarks import cases
from benchmarks.contract import Case, Digest, Program


def build(case: Case) -> Program:
    """See `Entry.build`."""
    start, ideal = cases.silicon(case.atoms)
    model = CHGNet.load(model_name=case.model.removeprefix("chgnet-"), verbose=False)
    calculator = CHGNetCalculator(model)

    def run() -> np.ndarray:
        atoms = start.copy()
        calculator.reset()
        atoms.calc = calculator
        # One evaluation before the first step; no force is below zero, so it never stops early.
        FIRE(atoms, logfile=None).run(fmax=-1.0, steps=case.steps - 1)
        return atoms.positions

    return Program(run=run, digest=lambda positions: Digest(float(np.sum((positions - ideal) ** 2)), None))
