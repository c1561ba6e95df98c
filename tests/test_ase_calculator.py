"""A potential as ASE sees it: the same numbers, minima and trajectories, neighbors built only when they must be."""

import jax
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.phonons import Phonons

import bptt_relax as br
from bptt_relax import models, neighbors, potentials, systems
from bptt_relax.models import pretrained
from bptt_relax.outcomes import InputError, ModelError

POTENTIAL = potentials.stillinger_weber()
PARAMS = POTENTIAL.init(None)


@pytest.fixture
def calculator():
    return br.ASECalculator(POTENTIAL, PARAMS)


@pytest.fixture
def silicon(make_silicon, calculator):
    atoms = make_silicon(1, rattle=0.15)
    atoms.calc = calculator
    return atoms


def direct(atoms, potential=POTENTIAL, params=PARAMS):
    positions, system = systems.prepare(br.io.to_structure(atoms, "test"), potential.graph)
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    return jax.jit(potential.apply)(params, positions, system, graph)


def test_it_says_what_apply_says(silicon):
    expected = direct(silicon)
    np.testing.assert_allclose(silicon.get_potential_energy(), expected.energy, rtol=1e-13)  # sums are padded
    np.testing.assert_allclose(silicon.get_forces(), expected.forces, atol=1e-12)
    np.testing.assert_allclose(silicon.get_stress(voigt=False), expected.stress, atol=1e-14)
    assert silicon.get_stress().shape == (6,)
    # ASE's own differences, so that sign and order of the components are ASE's.
    np.testing.assert_allclose(silicon.get_stress(), calculate_numerical_stress(silicon, eps=1e-5), atol=1e-7)


def test_bfgs_relaxes_a_rattled_cell_on_one_list(silicon, calculator):
    before = silicon.get_potential_energy()
    assert BFGS(silicon, logfile=None).run(fmax=1e-4, steps=200)
    assert np.max(np.linalg.norm(direct(silicon).forces, axis=1)) < 1e-4
    assert silicon.get_potential_energy() < before - 0.1
    assert calculator.rebuilds == 1


def test_the_cell_relaxes_too(make_silicon):
    atoms = make_silicon(1, vacancy=False, strain=0.01, rattle=0.1)
    atoms.calc = br.ASECalculator(POTENTIAL, PARAMS)
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=200)
    perfect = 2.0951 * 2 ** (1 / 6) * 4 / np.sqrt(3)
    np.testing.assert_allclose(atoms.cell.cellpar(), [*[perfect] * 3, *[90] * 3], rtol=1e-3)


def test_energy_is_conserved_while_neighbors_are_rebuilt(make_silicon):
    atoms = make_silicon(1, vacancy=True, strain=0.0)
    calculator = atoms.calc = br.ASECalculator(POTENTIAL, PARAMS, skin=0.3)
    velocities = 0.08 * np.random.default_rng(2).normal(size=(len(atoms), 3))
    atoms.set_velocities(velocities - velocities.mean(axis=0))
    dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
    totals = []
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.run(400)
    kinetic = atoms.get_kinetic_energy()
    assert kinetic > 0.3
    # Verlet oscillates about a constant; what drifts would grow with the length of the run.
    assert np.ptp(totals) < 5e-3 * kinetic
    assert abs(np.mean(totals[-100:]) - np.mean(totals[:100])) < 1e-3 * kinetic
    assert 2 <= calculator.rebuilds < 100


def test_a_moved_atom_beyond_the_skin_is_seen(silicon, calculator):
    silicon.get_forces()
    silicon.positions[2] += [1.3, 0.4, -0.7]
    np.testing.assert_allclose(silicon.get_forces(), direct(silicon).forces, atol=1e-10)
    assert calculator.rebuilds == 2


def test_another_structure_on_the_same_calculator(silicon, calculator):
    silicon.get_forces()
    other = Atoms("Si2", positions=[[0, 0, 0], [2.3, 0.1, 0]])
    other.calc = calculator
    np.testing.assert_allclose(other.get_forces(), direct(other).forces, atol=1e-12)
    other.positions[1] += [0.0, 0.2, 0.1]
    np.testing.assert_allclose(other.get_forces(), direct(other).forces, atol=1e-12)


def test_thirteen_structures_share_three_programs(make_silicon):
    """Sizes, cells and periodicity differ, and each has a calculator of its own."""
    traced = []

    def apply(params, positions, system, graph):
        traced.append(len(positions))
        return POTENTIAL.apply(params, positions, system, graph)

    counted = POTENTIAL._replace(apply=apply)
    cluster = make_silicon(1)
    cluster.set_pbc(False)
    slab = make_silicon(1)
    slab.set_pbc([True, True, False])
    structures = [
        bulk("Si"),
        bulk("Si", cubic=True),
        Atoms("Si2", positions=[[0, 0, 0], [2.3, 0.1, 0]]),
        cluster,
        slab,
        *[make_silicon(1, seed=seed) for seed in (1, 2)],
        *[bulk("Si").repeat((2, 2, k)) for k in (1, 2, 3)],
        bulk("Si", cubic=True).repeat((1, 1, 3)),
        make_silicon(2),
        bulk("Si", cubic=True).repeat((1, 2, 4)),
    ]
    assert len(structures) == 13
    for atoms in structures:
        atoms.rattle(0.05, seed=1)
        atoms.calc = br.ASECalculator(counted, PARAMS)
        expected = direct(atoms)
        np.testing.assert_allclose(atoms.get_potential_energy(), expected.energy, rtol=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-11)
    assert len(traced) <= 3
    # A small one after large ones is not dragged through their lists.
    small = bulk("Si")
    small.calc = br.ASECalculator(counted, PARAMS)
    small.get_potential_energy()
    assert len(small.calc._system.mask) <= 64
    assert len(traced) <= 3


def test_constraints_are_ases(silicon):
    free = silicon.get_forces()
    silicon.set_constraint(FixAtoms([0]))
    np.testing.assert_array_equal(silicon.get_forces()[0], 0.0)
    np.testing.assert_allclose(silicon.get_forces(apply_constraint=False), free, atol=1e-12)


def test_results_can_be_written_and_read(silicon, tmp_path):
    silicon.get_stress()
    silicon.write(tmp_path / "one.extxyz")
    again = read(tmp_path / "one.extxyz")
    np.testing.assert_allclose(again.get_forces(), silicon.get_forces(), atol=1e-7)


def test_what_it_can_not_do_is_said():
    germanium = bulk("Ge")
    germanium.calc = br.ASECalculator(POTENTIAL, PARAMS)
    with pytest.raises(InputError, match=r"stillinger-weber does not cover Ge \(1 elements listed\)"):
        germanium.get_forces()
    broken = bulk("Si")
    broken.calc = br.ASECalculator(POTENTIAL, {**PARAMS, "A": np.nan})
    with pytest.raises(ModelError, match="not finite for Si2"):
        broken.get_potential_energy()
    with pytest.raises(ValueError, match="skin=-1 must not be negative"):
        br.ASECalculator(POTENTIAL, PARAMS, skin=-1)


def test_phonons_of_diamond(tmp_path):
    # Relaxed, or the optical mode would not be one at a minimum.
    crystal = bulk("Si", a=2.0951 * 2 ** (1 / 6) * 4 / np.sqrt(3))
    phonons = Phonons(
        crystal, br.ASECalculator(POTENTIAL, PARAMS), supercell=(3, 3, 3), delta=0.01, name=tmp_path / "ph"
    )
    phonons.run()
    phonons.read(acoustic=True)
    found = phonons.band_structure([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    np.testing.assert_allclose(found[0, :3], 0.0, atol=1e-4)
    # Frozen: both atoms move against each other by u, and mu w^2 = E''(u) with the reduced mass.
    energies = []
    for u in (-0.01, 0.0, 0.01):
        moved = crystal.copy()
        moved.positions[1, 0] += u
        energies.append(float(direct(moved).energy))
    stiffness = (energies[0] - 2 * energies[1] + energies[2]) / 0.01**2
    mass = crystal.get_masses()[0] / 2
    expected = units._hbar * np.sqrt(stiffness * units._e / units._amu / mass) * 1e10 / units._e
    np.testing.assert_allclose(found[0, 3:], expected, rtol=1e-3)
    assert np.all(found[1] > 0.005)


def test_a_trained_network_relaxes_in_ase(make_silicon):
    atoms = make_silicon(1, rattle=0.15)
    atoms.calc = br.ASECalculator(*models.load("nequip-silicon"))
    before = atoms.get_potential_energy()
    assert BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    assert atoms.get_potential_energy() < before - 0.05


def test_chgnet_in_one_shot():
    if "chgnet-0.3.0" not in pretrained.cached():
        pytest.skip("the weights of CHGNet are not in the cache: bptt-relax models fetch chgnet-0.3.0")
    potential, params = pretrained.load("chgnet-0.3.0")
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.positions[0] += 0.1
    atoms.calc = br.ASECalculator(potential, params)
    expected = direct(atoms, potential, params)
    np.testing.assert_allclose(atoms.get_potential_energy(), expected.energy, rtol=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-9)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress, atol=1e-10)
