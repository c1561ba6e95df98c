"""The suite: a class to inherit from."""

from collections.abc import Iterator

import pytest
from ase import Atoms

from bptt_relax._precision import precision
from bptt_relax._types import Params
from bptt_relax.conformance.gradients import GradientChecks
from bptt_relax.conformance.predictions import PredictionChecks
from bptt_relax.conformance.subject import Subject, make_atoms
from bptt_relax.potentials import Potential


class PotentialConformance(PredictionChecks, GradientChecks):
    """Everything a potential must keep for relaxations through it to be right and differentiable.

    Inherit, say what ``make`` gives, and run pytest; what does not apply is skipped with a reason. All runs in double
    precision, whatever JAX's setting.

    Attributes:
        small_cells: False for a potential that takes the nearest image of each neighbor: it is then tested in cells
            wider than twice its cutoff only.
        reflections: False for a potential whose energy changes under reflection, as that of a network without parity.
    """

    small_cells: bool = True
    reflections: bool = True
    _subject: Subject

    def make(self) -> tuple[Potential, Params]:
        """The potential and its parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define make(self) -> (potential, params)")

    def make_atoms(self, potential: Potential) -> Atoms:
        """A structure far from equilibrium and without symmetry, that the potential knows.

        Args:
            potential: what ``make`` gave.
        """
        smallest = 0.0 if self.small_cells else 2.0 * potential.cutoff
        return make_atoms(potential.elements, smallest)

    @pytest.fixture
    def subject(self) -> Iterator[Subject]:
        """The potential under test, made once for all tests of the class; JAX in double precision meanwhile."""
        kind = type(self)
        with precision(double=True):
            # On the class and not in a fixture of its scope: those would let the precision of one class leak.
            if "_subject" not in kind.__dict__:
                potential, params = self.make()
                kind._subject = Subject(potential, params, self.make_atoms(potential))
            yield kind.__dict__["_subject"]

    @pytest.fixture
    def small_cells_allowed(self) -> bool:
        """Whether cells smaller than twice the cutoff are part of the promise."""
        return self.small_cells

    @pytest.fixture
    def reflections_allowed(self) -> bool:
        """Whether the energy of a mirror image is part of the promise."""
        return self.reflections
