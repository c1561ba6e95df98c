"""The forgetting check on Stillinger-Weber silicon, where what a changed parameter does to a crystal is known."""

import json

import numpy as np
import pytest

from bptt_relax.analysis import forgetting, probe
from bptt_relax.datasets.prototypes import Crystal
from bptt_relax.potentials import stillinger_weber

SILICON = Crystal("Si", "diamond", 5.431, bonding="covalent", bulk_modulus=98.0)


@pytest.fixture(scope="module")
def asked():
    """The probe, a function that asks it, and Stillinger and Weber's own answers."""
    potential = stillinger_weber()
    questions = probe.build([SILICON], [], potential.graph)
    ask = probe.make_asker(questions, potential)
    params = potential.init(None)
    return questions, ask, params, ask(params)


def changed(asked, **factors):
    questions, ask, params, before = asked
    after = ask(params | {name: factor * params[name] for name, factor in factors.items()})
    return forgetting.compare(questions, before, after)


def test_the_equation_of_state_of_a_birch_murnaghan_crystal_is_found_exactly():
    volume, modulus, slope = 20.0, 100.0 / 160.21766208, 4.5
    v = np.linspace(0.9, 1.1, 7) * 19.6
    x = (volume / v) ** (2 / 3)
    e = -5.0 + 9 * volume * modulus / 16 * ((x - 1) ** 3 * slope + (x - 1) ** 2 * (6 - 4 * x))
    found = forgetting.equation_of_state(v, e)
    assert found.volume == pytest.approx(volume, rel=1e-8)
    assert found.bulk_modulus == pytest.approx(100.0, rel=1e-6)
    assert found.energy == pytest.approx(-5.0, rel=1e-8)


def test_no_minimum_inside_is_no_equation_of_state():
    v = np.linspace(0.9, 1.1, 7) * 20.0
    assert forgetting.equation_of_state(v, 0.1 * v) is None
    assert forgetting.equation_of_state(v, -((v - 20.0) ** 2)) is None
    assert forgetting.equation_of_state(v, np.full(7, np.nan)) is None


def test_stillinger_weber_silicon_has_its_published_equation_of_state(asked):
    questions, _, _, before = asked
    found = forgetting.equation_of_state(questions.volumes[0] / 2, before.energies[0])
    assert found.volume == pytest.approx(5.431**3 / 8, rel=2e-3)
    assert found.bulk_modulus == pytest.approx(101.4, rel=0.03)
    assert found.energy == pytest.approx(-4.3366, abs=2e-3)
    # The second atom of a pair lies along +x: what pushes it apart is positive.
    assert np.all(before.repulsion[0, :4] > 0)


def test_an_unchanged_model_is_green(asked):
    found = changed(asked)
    assert found["light"] == "green"
    assert found["minima_lost"] == []
    assert found["blocks"]["forces"]["change"] == 0.0
    assert found["blocks"]["volume"]["change"] == 0.0
    assert found["blocks"]["short_range"]["mean_share"] == pytest.approx(1.0)
    json.dumps(found, allow_nan=False)


def test_stiffer_bonds_change_the_bulk_modulus_alone(asked):
    found = changed(asked, epsilon=1.1)
    assert found["blocks"]["bulk_modulus"]["change"] == pytest.approx(0.1, rel=1e-3)
    assert found["blocks"]["volume"]["change"] == pytest.approx(0.0, abs=1e-5)
    assert found["blocks"]["energy"]["change"] == pytest.approx(0.43366, rel=1e-3)
    assert found["blocks"]["energy"]["light"] == "red"
    assert found["blocks"]["short_range"]["weakest_share"] == pytest.approx(1.1)


def test_longer_bonds_change_the_volume(asked):
    found = changed(asked, sigma=1.01)["crystals"]["Si"]
    # Less than the cube of it: the cutoff stays where it is.
    assert 1.01 < found["tuned"]["volume"] / found["pretrained"]["volume"] < 1.01**3


def test_a_hole_and_a_lost_minimum_are_red_and_named(asked):
    found = changed(asked, A=-1.0)
    assert found["blocks"]["short_range"]["holes"] == ["Si-Si"]
    assert found["blocks"]["short_range"]["light"] == "red"
    assert found["minima_lost"] == ["Si"]
    assert found["light"] == "red"


def test_a_lost_minimum_is_red_where_it_was_the_only_one(asked):
    questions, _, _, before = asked
    falling = -np.arange(float(before.energies.size)).reshape(before.energies.shape)
    found = forgetting.compare(questions, before, before._replace(energies=falling))
    assert found["minima_lost"] == ["Si"]
    assert {name: block["light"] for name, block in found["blocks"].items()} == {
        "forces": "green",
        "short_range": "green",
    }
    assert found["light"] == "red"


def test_a_weaker_wall_is_yellow(asked):
    questions, _, _, before = asked
    found = forgetting.short_range(questions, before.repulsion, 0.4 * before.repulsion)
    assert (found["light"], found["holes"]) == ("yellow", [])
    assert found["weakest_share"] == pytest.approx(0.4)


@pytest.mark.parametrize(("factor", "light"), [(0.49, "green"), (0.51, "yellow"), (1.01, "red")])
def test_lights_are_relative_to_the_models_own_error(asked, factor, light):
    questions, _, _, before = asked
    shifted = before._replace(forces=tuple(f + factor * 0.07 for f in before.forces))
    assert forgetting.compare(questions, before, shifted)["blocks"]["forces"]["light"] == light
    # A model known to be better is held to more.
    stricter = forgetting.compare(questions, before, shifted, errors=(0.03, 0.007))
    assert stricter["blocks"]["forces"]["light"] == "red"


def test_the_worst_seed_counts(asked):
    found = forgetting.over_seeds([changed(asked), changed(asked, A=-1.0)])
    assert found["lights"] == ["green", "red"]
    assert found["light"] == "red"
    assert found["blocks"]["short_range"]["holes"] == ["Si-Si"]
    assert found["minima_lost"] == ["Si"]


def test_what_is_not_finite_is_red_and_plain_json(asked):
    questions, _, _, before = asked
    broken = before._replace(
        energies=np.full_like(before.energies, np.nan),
        forces=tuple(np.full_like(f, np.nan) for f in before.forces),
        repulsion=np.full_like(before.repulsion, np.nan),
    )
    found = forgetting.compare(questions, before, broken)
    assert found["light"] == "red"
    assert found["minima_lost"] == ["Si"]
    json.dumps(found, allow_nan=False)
