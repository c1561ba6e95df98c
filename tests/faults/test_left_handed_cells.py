"""Cells whose vectors form a left-handed system: the same crystal, and the same energy, forces and stress.

Some packages give the stress of such a cell the wrong sign, as the determinant of the cell is negative.
"""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

import bptt_relax as br
from bptt_relax import batches, models, relax
from bptt_relax.io import to_structure

SW = models.load("stillinger-weber")


def left_handed(atoms):
    """The same lattice and the same atoms, with two of its vectors exchanged."""
    other = atoms.copy()
    other.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(other.cell.array) < 0 < np.linalg.det(atoms.cell.array)
    return other


def predicted(structure, potential, params):
    positions, system = br.systems.prepare(structure, potential.graph)
    graph = br.neighbors.refresh(system.candidates, positions, system.cell)
    return potential.apply(params, positions, system, graph)


@pytest.fixture
def pair(make_silicon):
    atoms = make_silicon(1)
    return atoms, left_handed(atoms)


def same(found, expected, tolerance):
    np.testing.assert_allclose(found.energy, expected.energy, rtol=tolerance)
    np.testing.assert_allclose(found.forces, expected.forces, atol=tolerance)
    np.testing.assert_allclose(found.stress, expected.stress, atol=tolerance)
    assert np.max(np.abs(expected.stress)) > 1e-3


@pytest.mark.parametrize("form", ["extxyz", "vasp"])
def test_energy_forces_and_stress_through_files(tmp_path, pair, form):
    name = {"extxyz": "{}.extxyz", "vasp": "{}/POSCAR"}[form]
    found = []
    for kind, atoms in zip(("right", "left"), pair, strict=True):
        path = tmp_path / name.format(kind)
        path.parent.mkdir(exist_ok=True)
        write(path, atoms, format=form)
        (structure,) = [one.structure for one in br.io.inspect_structures([path]).found]
        np.testing.assert_allclose(structure.cell, atoms.cell.array, atol=1e-7)
        found.append(predicted(structure, *SW))
    same(found[1], found[0], 1e-6)


def test_a_network(pair):
    right, left = (predicted(to_structure(atoms, "a"), *models.load("nequip-silicon")) for atoms in pair)
    same(left, right, 1e-9)


def test_a_free_cell_relaxes_to_the_same_volume(pair):
    potential, params = SW
    rule = relax.fire(largest_step=0.2)
    relaxation = relax.variable_cell_relaxation(potential, rule, force_tolerance=1e-4, stress_tolerance=1e-5)
    many = batches.RelaxMany(relaxation, potential.graph, 300)
    theta = relax.Theta(params, rule.hyper)
    ends = {
        end.index: end for end in many(theta, [to_structure(atoms, str(k)) for k, atoms in enumerate(pair)])
    }
    assert all(end.converged for end in ends.values())
    right, left = (np.linalg.det(ends[k].structure.cell) for k in (0, 1))
    assert left == pytest.approx(-right, rel=1e-6)
    assert ends[0].energy == pytest.approx(ends[1].energy, abs=1e-6)


def test_labels_keep_their_sign(tmp_path):
    """A compressed crystal wants to expand, in whatever order its vectors stand: its stress is negative."""
    for kind, atoms in (
        ("right", bulk("Si", cubic=True, a=5.2)),
        ("left", left_handed(bulk("Si", cubic=True, a=5.2))),
    ):
        atoms.calc = br.ASECalculator(*SW)
        assert np.all(atoms.get_stress()[:3] < 0), kind
        np.testing.assert_allclose(atoms.get_stress()[0], atoms.get_stress()[1], rtol=1e-9)
