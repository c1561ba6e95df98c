"""Fine-tuning on relaxations of the cell, beside some at fixed cell, with a potential that compiles in a moment."""

import json

import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read
from scipy.linalg import expm

import bptt_relax as br
from bptt_relax import datasets, systems
from bptt_relax.finetuning import cases as casing
from bptt_relax.finetuning.measure import from_json, to_json
from bptt_relax.finetuning.stages import check_step_size
from bptt_relax.io.checks import changes_cell
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import stillinger_weber
from bptt_relax.training import Relaxed


@pytest.fixture(scope="module")
def silicon():
    """Phases of silicon with four bonds to an atom, each relaxation a group of its own."""
    found = [
        r
        for r in datasets.load("crystals").relaxations
        if set(r.initial.species.tolist()) == {14} and "betaSn" not in r.kind
    ]
    return [r._replace(group=r.name) for r in found]


@pytest.fixture(scope="module")
def tuned(silicon, tmp_path_factory):
    return br.finetune(
        silicon,
        "stillinger-weber",
        out=tmp_path_factory.mktemp("cells") / "run",
        relaxation={"train_steps": 12, "test_steps": 80, "step_size": 0.01, "skin": 1.5},
        force_matching={"epochs": 1},
        bptt={"epochs": 3, "learning_rate": 0.005, "force_weight": 0.0},
        split={"test": 0.3},
        forgetting=False,
    )


def test_training_on_cells_makes_them_better(tuned):
    """The potential was made for a lattice that is 0.8% narrower than that of the reference method."""
    (model,) = tuned.results["models"].values()
    before, after = (model[stage]["cell"] for stage in ("pretrained", "bptt"))
    assert before["volume_change"]["mean"] < -0.01
    assert after["volume_error"]["mean"] < 0.7 * before["volume_error"]["mean"]
    assert model["reduction"]["volume_error"]["bptt_vs_pretrained"] > 0.3
    # What is too narrow is under tension where the reference is at rest.
    assert before["pressure_at_dft"]["mean"] < 0 < -before["volume_change"]["mean"]
    assert abs(after["pressure_at_dft"]["mean"]) < abs(before["pressure_at_dft"]["mean"])
    events = list(map(json.loads, (tuned.folder / "metrics.jsonl").read_text().splitlines()))
    of_bptt = [e["validation"] for e in events if e["event"] == "epoch" and e["stage"] == "bptt"]
    assert of_bptt[-1] < of_bptt[0]


def test_each_structure_is_relaxed_as_the_reference_did(silicon, tuned):
    moving = {r.name for r in silicon if changes_cell(r)}
    (model,) = tuned.results["models"].values()
    tested = tuned.results["dataset"]["test"]
    summary = model["bptt"]
    assert set(summary["cell"]["strain"]["per_structure"]) == moving & set(tested)
    assert 0 < summary["stress_mae"] < 0.1
    assert 0 < summary["energy_mae"] < 1.0
    if moving >= set(tested) or not moving & set(tested):
        assert "free_cell" not in model
    else:
        assert set(model["given_cell"]["bptt"]["delta_q"]["per_structure"]) == set(tested) - moving
    references = {r.name: r.relaxed.cell for r in silicon}
    for atoms in read(tuned.folder / "seed0" / "bptt.extxyz", index=":"):
        kept = np.allclose(atoms.cell.array, references[atoms.info["relaxation"]], atol=1e-6)
        assert kept == (atoms.info["relaxation"] not in moving)
    assert (tuned.folder / "figures" / "cells.png").is_file()
    assert "cell included" in (tuned.folder / "seed0" / "bptt.model-card.md").read_text()


def test_measurements_are_read_back_as_they_were(tuned):
    stored = json.loads((tuned.folder / "pretrained.json").read_text())
    measured = from_json(stored)
    assert json.loads(json.dumps(to_json(measured))) == stored
    assert all(isinstance(m.relaxed, Relaxed) for m in measured.values())
    found = next(m.relaxed for m in measured.values() if m.relaxed.cell is not None)
    assert found.distance() == pytest.approx(np.hypot(found.delta_q, found.cell_delta_q))


def test_a_model_without_stress_is_refused(silicon):
    potential = stillinger_weber()._replace(name="blind", predicts=frozenset({"energy", "forces"}))
    with pytest.raises(InputError, match="blind predicts no stress.*--reading.in-relaxed-cell"):
        casing.check_cells(silicon, potential)
    casing.check_cells([r for r in silicon if not changes_cell(r)], potential)


def test_starts_of_free_cells_are_strained_and_others_not(silicon):
    starts = casing.Starts(0.0, 0.0, (0.03, 0.1), strain=0.02)
    for r in silicon:
        drawn = starts.draw(r, np.random.default_rng(0))
        strain = np.linalg.inv(r.relaxed.cell) @ drawn.cell - np.eye(3)
        assert np.abs(strain).max() < 0.1
        assert (np.abs(strain).max() > 1e-3) == changes_cell(r)
        np.testing.assert_allclose(strain, strain.T, atol=1e-12)
    slab = silicon[0].relaxed._replace(pbc=np.array([True, True, False]))
    moved = casing.strained(slab, np.full(6, 0.01))
    np.testing.assert_array_equal(moved.cell[2], slab.cell[2])


def test_a_crystal_of_one_atom_has_only_its_cell_to_be_stiff(make_structure):
    """V C / n^2 along the three kinds of strain of a cubic crystal, by second differences of the energy."""
    potential = stillinger_weber()
    start = make_structure(bulk("Si", "bcc", a=3.4), "bcc")
    pair = systems.prepare_pair(start, start, potential.graph, free_cell=True)
    rule = br.relax.descent(0.01)
    theta = br.Theta(potential.init(None), rule.hyper)
    steadiness = check_step_size(potential, rule, theta, [pair])
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
    assert steadiness.largest == pytest.approx(max(curvatures), rel=1e-4)
