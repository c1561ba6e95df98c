"""What a prediction must be: shapes, padding, symmetries, periodicity, forces and stress that belong to the energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from bptt_relax import trees
from bptt_relax._precision import precision
from bptt_relax.analysis._check import to_device
from bptt_relax.conformance.subject import Subject

RELATIVE = 1e-7
"""Tolerance of energies, forces and stress that must be the same, relative to their size; in double precision."""


def assert_same(found, expected, what: str) -> None:
    """Compare to rounding."""
    found, expected = np.asarray(found), np.asarray(expected)
    size = max(float(np.max(np.abs(expected), initial=0.0)), 1e-2)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=RELATIVE * size, err_msg=what)


class PredictionChecks:
    """Tests of single predictions. ``subject`` is a fixture of the suite."""

    def test_shapes_and_types(self, subject: Subject):
        """Energy (), forces (N, 3), stress (3, 3) or None, all of the type of the positions."""
        layout = subject.layout(subject.atoms, extra_atoms=2)
        for double in (True, False):
            with precision(double=double):
                found = subject.raw(subject.atoms, layout, double=double)
                kind = jnp.float64 if double else jnp.float32
                assert found.energy is None or found.energy.shape == ()
                assert found.forces.shape == (layout.num_atoms, 3)
                assert found.stress is None or found.stress.shape == (3, 3)
                assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(kind)}
                assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(found))

    def test_padding_changes_nothing(self, subject: Subject):
        """More padded atoms, edges, bonds and angles: the same prediction, no force on what is not there."""
        tight = subject.ask(subject.atoms)
        roomy = subject.ask(subject.atoms, subject.layout(subject.atoms, extra_atoms=3, headroom=1.7))
        assert_same(roomy.energy, tight.energy, "energy (eV) with padding")
        assert_same(roomy.forces, tight.forces, "forces (eV/A) with padding")
        assert_same(roomy.padded_forces, 0.0, "forces (eV/A) on padded atoms")
        if tight.stress is not None:
            assert_same(roomy.stress, tight.stress, "stress (eV/A^3) with padding")

    def test_an_isolated_atom_feels_nothing(self, subject: Subject):
        """No neighbors: everything is finite, derivatives with respect to parameters too."""
        alone = Atoms(
            subject.atoms.numbers[:1],
            cell=(3 * min(subject.potential.cutoff, 10.0) + 5) * np.eye(3),
            pbc=True,
        )
        layout = subject.layout(alone, extra_atoms=1)
        answer = subject.ask(alone, layout)
        assert np.isfinite(answer.energy) or "energy" not in subject.potential.predicts
        if subject.potential.conservative:
            assert_same(answer.forces, 0.0, "forces (eV/A) on an isolated atom")
            assert answer.stress is None or np.max(np.abs(answer.stress)) < 1e-12
        assert np.all(np.isfinite(answer.forces))
        positions, system = subject.prepare(alone, layout)
        gradient = jax.jit(jax.grad(subject.pair))(to_device(subject.params, double=True), positions, system)
        assert bool(trees.all_finite(gradient)), "gradients of an isolated atom are not finite"

    @pytest.mark.parametrize(
        "name",
        [
            "translation",
            "rotation",
            "permutation",
            "net force",
            "energy and forces",
            "smooth at the cutoff",
            "smooth at the bond cutoff",
            "stale neighbors",
        ],
    )
    def test_what_relaxations_rely_on(self, subject: Subject, name: str):
        """Symmetries, forces that are minus the gradient of the energy, smoothness, lists that may be old."""
        found = subject.checks.get(name)
        if found is None or found.passed is None:
            pytest.skip("does not apply" if found is None else f"{found.value:.2e}: {found.detail}")
        assert found.passed, f"{found.name}: {found.value:.2e} > {found.tolerance:.0e}, {found.detail}"

    def test_a_mirror_image_has_the_same_energy(self, subject: Subject, reflections_allowed: bool):
        """Inverted through a point: the energy stays, forces turn."""
        if not subject.potential.conservative:
            pytest.skip("forces are of a head of their own, which may do without symmetries")
        if not reflections_allowed:
            pytest.skip("the potential knows rotations only, and says so")
        mirrored = subject.atoms.copy()
        mirrored.set_cell(-mirrored.cell.array)
        mirrored.positions *= -1
        here, there = subject.ask(subject.atoms), subject.ask(mirrored)
        assert_same(there.energy, here.energy, "energy (eV) of the mirror image")
        assert_same(there.forces, -here.forces, "forces (eV/A) of the mirror image")

    def test_atoms_may_lie_outside_the_cell(self, subject: Subject):
        """Moved by lattice vectors: the same prediction."""
        moved = subject.atoms.copy()
        shifts = np.random.default_rng(1).integers(-2, 3, size=(len(moved), 3))
        moved.positions += shifts @ moved.cell.array
        here, there = subject.ask(subject.atoms), subject.ask(moved)
        assert_same(there.energy, here.energy, "energy (eV) with atoms outside the cell")
        assert_same(there.forces, here.forces, "forces (eV/A) with atoms outside the cell")

    def test_a_supercell_is_several_cells(self, subject: Subject):
        """Twice the cell: twice the energy, the same forces and stress."""
        if not subject.potential.conservative:
            pytest.skip("forces are of a head of their own, which may not be periodic")
        here, there = subject.ask(subject.atoms), subject.ask(subject.atoms.repeat((2, 1, 1)))
        assert_same(there.energy / 2, here.energy, "energy (eV) of a cell within a supercell")
        assert_same(there.forces, np.tile(here.forces, (2, 1)), "forces (eV/A) within a supercell")
        if here.stress is not None:
            assert_same(there.stress, here.stress, "stress (eV/A^3) of a supercell")

    def test_stress_is_the_strain_derivative(self, subject: Subject):
        """dE/d(strain) / volume by differences of fourth order."""
        here = subject.ask(subject.atoms)
        if here.stress is None:
            pytest.skip("this potential predicts no stress")
        if not subject.potential.conservative:
            pytest.skip("its stress is of a head of its own")
        direction = np.random.default_rng(2).normal(size=(3, 3))
        direction = 0.5 * (direction + direction.T)
        step, layout = 2e-4, subject.layout(subject.atoms, headroom=1.2)

        def energy(k: int) -> float:
            strained = subject.atoms.copy()
            deformation = np.eye(3) + k * step * direction
            strained.set_cell(strained.cell.array @ deformation, scale_atoms=True)
            return subject.ask(strained, layout).energy

        far_below, below, above, far_above = (energy(k) for k in (-2, -1, 1, 2))
        slope = (8 * (above - below) - (far_above - far_below)) / (12 * step)
        predicted = float(np.sum(here.stress * direction)) * subject.atoms.get_volume()
        assert predicted == pytest.approx(slope, rel=1e-5, abs=1e-6), (
            "stress along a strain times volume (eV)"
        )
        np.testing.assert_allclose(here.stress, here.stress.T, atol=1e-12, err_msg="stress is not symmetric")

    def test_cells_smaller_than_the_cutoff(self, subject: Subject, small_cells_allowed: bool):
        """A cell of one or two atoms is what a supercell of it is: every periodic image counts."""
        if not small_cells_allowed:
            pytest.skip("small_cells = False: it takes the nearest image of each neighbor")
        if not subject.potential.conservative:
            pytest.skip("forces are of a head of their own, which may not be periodic")
        first = int(subject.atoms.numbers[0])
        apart = subject.atoms.get_all_distances(mic=True)
        edge = 1.3 * float(np.min(apart[apart > 0]))
        small = Atoms([first, first], cell=edge * (np.eye(3) + 0.05), pbc=True)
        small.positions[1] = edge * np.array([0.48, 0.52, 0.55])
        here, there = subject.ask(small), subject.ask(small.repeat((3, 2, 2)))
        assert_same(there.energy / 12, here.energy, "energy (eV) of a small cell within a supercell")
        assert_same(there.forces, np.tile(here.forces, (12, 1)), "forces (eV/A) of a small cell")
