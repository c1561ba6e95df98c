"""Fine-tuning on relaxations of the cell, beside some at fixed cell, with a potential that compiles in a moment."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read
from scipy.linalg import expm

import bptt_relax as br
from bptt_relax import datasets, systems
from bptt_relax.batches import PredictMany, RelaxMany
from bptt_relax.finetuning import own_data, preparation, sampling
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.measurement import Measurement, from_json, summarize, to_json
from bptt_relax.finetuning.objectives import relaxed_ends
from bptt_relax.finetuning.relaxation import make_rule
from bptt_relax.finetuning.run import fine_tune
from bptt_relax.finetuning.settings import (
    BpttSettings,
    FineTuningSettings,
    ForceMatchingSettings,
    RecipeSettings,
    RelaxationSettings,
)
from bptt_relax.finetuning.step_size import check_step_size
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.splits import Split
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import stillinger_weber
from bptt_relax.training import Relaxed
from bptt_relax.units import EV_PER_A3_IN_GPA


@pytest.fixture(scope="module")
def silicon():
    """Phases of silicon with four bonds to an atom."""
    found = datasets.load("crystals").relaxations
    return [r for r in found if set(r.initial.species.tolist()) == {14} and "betaSn" not in r.kind]


@pytest.fixture(scope="module")
def run(silicon, tmp_path_factory):
    """The folder of a run: both kinds of relaxation in every part but validation, where the cell is to be judged."""
    name = "x_Si_{}_s0".format
    parts = Split(
        (name("dia8_vcrelax"), name("dia8_relax"), name("lons_vcrelax")),
        (name("bc8_vcrelax"),),
        (name("dia_vcrelax"), name("dia_relax"), name("lons_relax")),
    )
    settings = FineTuningSettings(
        model="stillinger-weber",
        relaxation=RelaxationSettings(train_steps=12, test_steps=80, step_size=0.01, skin=1.5),
        force_matching=ForceMatchingSettings(epochs=1),
        bptt=BpttSettings(epochs=4, batch_size=1, learning_rate=0.005, force_weight=0.0),
        forgetting=False,
    )
    corpus = Corpus("silicon", "0" * 64, silicon, parts)
    return fine_tune("finetune", corpus, settings, tmp_path_factory.mktemp("cells") / "run").folder


@pytest.fixture
def model(run):
    (found,) = json.loads((run / "results.json").read_text())["models"].values()
    return found


@pytest.mark.slow
def test_training_on_cells_makes_them_better(model):
    """The potential was made for a lattice that is 0.8% narrower than that of the reference method."""
    before, after = (model[stage]["cell"] for stage in ("pretrained", "bptt"))
    assert before["volume_change"]["mean"] < -0.01
    assert after["volume_error"]["mean"] < 0.7 * before["volume_error"]["mean"]
    assert model["reduction"]["volume_error"]["bptt_vs_pretrained"] > 0.3
    # What is too narrow is under tension where the reference is at rest.
    assert before["pressure_at_dft"]["mean"] < 0
    assert abs(after["pressure_at_dft"]["mean"]) < abs(before["pressure_at_dft"]["mean"])


@pytest.mark.slow
def test_each_structure_is_relaxed_as_the_reference_did(silicon, run, model):
    moving = {r.name for r in silicon if changes_cell(r)}
    assert set(model["bptt"]["cell"]["strain"]["per_structure"]) == {"x_Si_dia_vcrelax_s0"}
    assert set(model["free_cell"]["bptt"]["delta_q"]["per_structure"]) == {"x_Si_dia_vcrelax_s0"}
    assert set(model["given_cell"]["bptt"]["delta_q"]["per_structure"]) == {
        "x_Si_dia_relax_s0",
        "x_Si_lons_relax_s0",
    }
    assert 0 < model["bptt"]["stress_mae"] < 0.1
    assert 0 < model["bptt"]["energy_mae"] < 1.0
    references = {r.name: r.relaxed.cell for r in silicon}
    for atoms in read(run / "seed0" / "bptt.extxyz", index=":"):
        kept = np.allclose(atoms.cell.array, references[atoms.info["job"]], atol=1e-6)
        assert kept == (atoms.info["job"] not in moving)
    assert (run / "figures" / "cells.png").is_file()
    assert not (run / "figures" / "displacement_by_distance.png").exists()
    assert "cell included" in (run / "seed0" / "bptt.model-card.md").read_text()
    stored = json.loads((run / "pretrained.json").read_text())
    assert json.loads(json.dumps(to_json(from_json(stored)))) == stored


def test_measurements_are_read_back_as_they_were():
    cell = 5.0 * np.eye(3)
    given = Relaxed(0.3, 0.1, 0.2, True, 7, 0.01, 1, np.zeros((2, 3)))
    free = replace(given, cell=cell, volume_change=-0.02, cell_strain=0.01, cell_delta_q=0.4)
    measured = {
        "given": Measurement(given, 0.1, 0.2),
        "free": Measurement(free, 0.1, 0.2, 0.01, 0.02, -0.003),
    }
    stored = json.loads(json.dumps(to_json(measured)))
    again = from_json(stored)
    assert to_json(again) == stored
    np.testing.assert_array_equal(again["free"].relaxed.cell, cell)
    assert again["given"].relaxed.cell is None
    assert again["given"].relaxed.distance() == 0.3
    assert again["free"].relaxed.distance() == pytest.approx(0.5)
    assert again["free"].relaxed.distance(cell_weight=0.0) == pytest.approx(0.3)
    summary = summarize([again])
    assert summary["cell"]["volume_error"]["mean"] == pytest.approx(0.02)
    assert summary["cell"]["volume_change"]["per_structure"] == {"free": -0.02}
    assert summary["cell"]["pressure_at_dft"]["mean"] == pytest.approx(-0.003)
    assert "cell" not in summarize([{"given": again["given"]}])
    assert (summary["not_converged"], summary["converged_only"]["count"]) == ({}, 2)
    failed = {"given": replace(measured["given"], relaxed=replace(given, converged=False, delta_q=9.0))}
    over_seeds = summarize([{"given": measured["given"]}, failed])
    assert over_seeds["not_converged"] == {"given": 1}
    assert over_seeds["converged_fraction"] == 0.5
    assert over_seeds["converged_only"] == {"delta_q": 0.3, "count": 1}
    assert over_seeds["delta_q"]["mean"] == pytest.approx(4.65)


def test_a_model_without_stress_is_refused(silicon):
    potential = stillinger_weber()._replace(name="blind", predicts=frozenset({"energy", "forces"}))
    with pytest.raises(InputError, match="blind predicts no stress.*--reading.in-relaxed-cell"):
        preparation.check_cells(silicon, potential, "full")
    preparation.check_cells([r for r in silicon if not changes_cell(r)], potential, "implicit")


def test_training_relaxes_at_the_pressure_of_the_data(springs, make_structure):
    """What has relaxed at 3 GPa is at rest in an unroll at 3 GPa, and leaves its place in one at none."""
    potential, params = springs.potential, springs.params
    settings = RecipeSettings(relaxation=RelaxationSettings(train_steps=8, step_size=0.01))
    pressure = 3 / EV_PER_A3_IN_GPA
    rule = br.relax.fire(largest_step=0.2)
    relaxation = br.relax.variable_cell_relaxation(
        potential, rule, scalar_pressure=pressure, force_tolerance=1e-6, stress_tolerance=1e-7
    )
    start = make_structure(bulk("Si", cubic=True, a=5.4), "diamond")
    (end,) = RelaxMany(relaxation, potential.graph, 500)(br.Theta(params, rule.hyper), [start])
    assert end.converged
    pair = systems.prepare_pair(end.structure, end.structure, potential.graph, free_cell=True)
    theta = br.Theta(params, make_rule(settings.relaxation).hyper)
    at_it, at_none = (
        float(
            jax.jit(relaxed_ends(settings, p).build(potential, params)[0].value_and_grad)(theta, pair)[0][0]
        )
        for p in (pressure, 0.0)
    )
    assert at_it < 1e-3 * at_none
    assert at_none > 0.01


def test_relaxations_of_the_cell_at_two_pressures_are_refused(silicon):
    def at(pressure, relaxation):
        made = relaxation.calculation._replace(pressure=pressure, free_cell=changes_cell(relaxation))
        return relaxation._replace(calculation=made)

    moving = [r for r in silicon if changes_cell(r)]
    given = next(r for r in silicon if not changes_cell(r))
    own_data.check_pressures([*(at(5.0, r) for r in moving), at(0.0, given)])
    with pytest.raises(
        InputError, match=r"at different pressures.*0 GPa \(.*; 5 GPa .*--reading.in-relaxed-cell"
    ):
        own_data.check_pressures([at(0.0, moving[0]), *(at(5.0, r) for r in moving[1:])])
    said, unsaid = at(2.0, moving[0]), at(None, moving[0])
    assert own_data._at(5.0, said).pressure == pytest.approx(2.0 / EV_PER_A3_IN_GPA)
    assert own_data._at(5.0, unsaid).pressure == pytest.approx(5.0 / EV_PER_A3_IN_GPA)


def test_an_adjoint_that_knows_no_cell_is_refused(silicon):
    with pytest.raises(InputError, match="--bptt.adjoint guided_8 differentiates relaxations at fixed cell"):
        preparation.check_cells(silicon, stillinger_weber(), "guided_8")


def test_starts_of_free_cells_are_strained_and_others_not(silicon):
    starts = sampling.Starts(0.0, 0.0, (0.03, 0.1), strain=0.02)
    for r in silicon:
        drawn = starts.draw(r, np.random.default_rng(0))
        strain = np.linalg.inv(r.relaxed.cell) @ drawn.cell - np.eye(3)
        assert np.abs(strain).max() < 0.1
        assert (np.abs(strain).max() > 1e-3) == changes_cell(r)
        np.testing.assert_allclose(strain, strain.T, atol=1e-12)
    slab = silicon[0].relaxed._replace(pbc=np.array([True, True, False]))
    moved = sampling.strained(slab, np.full(6, 0.01))
    np.testing.assert_array_equal(moved.cell[2], slab.cell[2])


@pytest.mark.slow
def test_a_crystal_of_one_atom_has_only_its_cell_to_be_stiff(make_structure):
    """C (V/n)^(1/3) along the three kinds of strain of a cubic crystal, by second differences of the energy."""
    potential = stillinger_weber()
    start = make_structure(bulk("Si", "bcc", a=3.4), "bcc")
    pair = systems.prepare_pair(start, start, potential.graph, free_cell=True)
    rule = br.relax.descent(0.01)
    theta = br.Theta(potential.init(None), rule.hyper)
    steadiness = check_step_size(potential, PredictMany(potential), rule, theta, [pair])
    evaluate = jax.jit(br.relaxation(potential, rule).evaluate)

    def energy(L):
        F = expm(L)
        here = evaluate(theta, pair.initial @ F.T, pair.system.cell @ F.T, pair.system)
        assert not here.overflow
        return float(here.energy)

    shear = np.zeros((3, 3))
    shear[0, 1] = shear[1, 0] = 0.5**0.5
    strains = [np.eye(3) / 3**0.5, np.diag([1.0, -1.0, 0.0]) / 2**0.5, shear]
    h, middle = 1e-3, energy(np.zeros((3, 3)))
    curvatures = [(energy(h * E) + energy(-h * E) - 2 * middle) / h**2 for E in strains]
    spacing = abs(np.linalg.det(start.cell)) ** (1 / 3)
    assert steadiness.largest == pytest.approx(max(curvatures) / spacing**2, rel=1e-4)
