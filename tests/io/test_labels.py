import numpy as np
import pytest

from bptt_relax import units
from bptt_relax.io import labels
from bptt_relax.io.atoms import Unused
from bptt_relax.outcomes import InputError


def test_energies_and_forces_of_the_bundled_data_belong_together(defects):
    for r in defects.relaxations:
        assert labels.work_ratio(r).ratio == pytest.approx(1.0, abs=0.01), r.name


@pytest.mark.parametrize(
    ("energy", "force", "verdict"),
    [
        (1 / units.RYDBERG, 1.0, "rydberg"),
        (1.0, units.BOHR / units.RYDBERG, "rydberg/bohr"),
        (1.0, units.BOHR / units.HARTREE, "hartree/bohr"),
        (1.0, -1.0, "gradients instead of forces"),
        (1.0, 1000.0, "meV"),
    ],
)
def test_units_that_do_not_belong_together_are_recognized(relaxation, energy, force, verdict):
    wrong = relaxation._replace(energies=relaxation.energies * energy, forces=relaxation.forces * force)
    (problem,) = labels.check(wrong)
    assert problem.fatal
    assert verdict in problem.text
    assert "energy_key" in problem.fix


def test_scattered_ratios_are_no_unit(relaxation):
    rng = np.random.default_rng(0)
    wrong = relaxation._replace(energies=rng.normal(size=len(relaxation.frames)))
    assert not any(p.fatal for p in labels.check(wrong))


def test_too_little_to_tell(relaxation):
    assert labels.work_ratio(relaxation._replace(energies=None)) is None
    assert labels.work_ratio(relaxation._replace(frames=relaxation.frames[:2])) is None
    stretched = relaxation.relaxed._replace(cell=relaxation.relaxed.cell * 1.1)
    moving = relaxation._replace(frames=(*relaxation.frames[:-1], stretched), stresses=None)
    assert labels.work_ratio(moving) is None


def test_forces_zeroed_by_a_lost_constraint(relaxation):
    forces = relaxation.forces.copy()
    forces[:, [4, 7]] = 0.0
    frames = []
    for frame in relaxation.frames:
        positions = frame.positions.copy()
        positions[[4, 7]] = relaxation.initial.positions[[4, 7]]
        frames.append(frame._replace(positions=positions))
    found = labels.check(relaxation._replace(frames=tuple(frames), forces=forces))
    assert any("2 atoms (4, 7) never move and have exactly zero force" in p.text for p in found)
    assert not any(p.fatal for p in found)


def test_require(relaxation):
    labels.require([relaxation], energies=True, forces=True)
    bare = relaxation._replace(name="bare", forces=None, info={"unused": Unused(forces=("dft_forces",))})
    with pytest.raises(
        InputError,
        match=r"bare: forces are needed and missing \(1 of 2.*found dft_forces: forces_key='dft_forces'",
    ):
        labels.require([relaxation, bare], forces=True)
    labels.require([relaxation, bare], energies=True)
    free = relaxation._replace(name="f", info={"energy_kind": "free"})
    total = relaxation._replace(name="t", info={"energy_kind": "total"})
    with pytest.raises(InputError, match=r"different kinds are mixed: free \(f\), total \(t\)"):
        labels.require([free, total], energies=True)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (1.0, None),
        (0.8, None),  # softened models are no unit
        (1 / units.RYDBERG, "rydberg, or"),
        (units.BOHR / units.RYDBERG, "rydberg/bohr"),
        (units.BOHR, "eV/bohr"),
        (23.06, "kcal/mol"),
    ],
)
def test_compare_units(factor, verdict):
    check_comparison(factor, verdict, labels.FACTORS)


def check_comparison(factor, verdict, factors):
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(50, 3))
    found = labels.compare_units(factor * (predicted + 0.1 * rng.normal(size=(50, 3))), predicted, factors)
    assert found.slope == pytest.approx(factor, rel=0.05)
    assert (found.verdict is None) if verdict is None else (verdict in found.verdict)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (1.0, None),
        (-1.0, "in eV/angstrom^3, of the opposite sign"),
        (-1602.18, "in kbar, of the opposite sign"),
        (160.2, "in GPa"),
        (units.BOHR**3 / units.RYDBERG, "in rydberg/bohr^3"),
    ],
)
def test_compare_units_of_stresses(factor, verdict):
    check_comparison(factor, verdict, labels.STRESS_FACTORS)


def test_unrelated_labels_have_no_unit():
    rng = np.random.default_rng(0)
    assert labels.compare_units(20 * rng.normal(size=100), rng.normal(size=100)).verdict is None


def test_align_energies():
    rng = np.random.default_rng(0)
    species = [np.repeat([14, 15, 8], rng.integers(1, 20, 3)) for _ in range(30)]
    predicted = rng.normal(size=30)
    constants = {14: -100.0, 15: -170.0, 8: 40.0}
    reference = predicted + np.array([sum(constants[z] for z in s) for s in species])
    found = labels.align_energies(reference, predicted, species)
    assert found.per_element == pytest.approx({"Si": -100.0, "P": -170.0, "O": 40.0})
    assert found.residual < 1e-9
    assert found.outliers == ()
    reference[4] += 0.5 * len(species[4])  # another functional
    assert labels.align_energies(reference, predicted, species).outliers == (4,)
