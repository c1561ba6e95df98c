import math

import pytest

from benchmarks import analysis, schema
from benchmarks.presets import CHGNET, SW


def test_slope_recovers_a_power_law():
    assert analysis.slope([(x, 3.0 * x**1.7) for x in (16, 64, 1024)]) == pytest.approx(1.7)


def test_ratio_is_taken_within_each_round(results):
    comparison = results.find(SW, 63, 64)
    drifting = analysis.ratio(comparison, "step", "forward")
    assert drifting == pytest.approx((3.0, 3.0, 3.0))
    comparison.get("step").rounds[1] *= 2
    assert analysis.ratio(comparison, "step", "forward") == pytest.approx((3.0, 3.0, 6.0))


def test_ratio_is_none_where_something_was_not_run(results):
    assert analysis.ratio(results.find(SW, 63, 16), "implicit", "forward") is None
    assert analysis.ratio(results.find(SW, 63, 16), "torch", "forward") is None
    assert analysis.ratio(None, "step", "forward") is None


def test_backward_steps_leave_the_forward_pass_out(results):
    assert analysis.backward_steps(results.find(SW, 63, 64), "step") == pytest.approx((3.0 - 1.0) * 64)


def test_growth_in_steps_and_atoms(results):
    found = {(g.model, g.entry, g.quantity, g.variable): g for g in analysis.growth(results)}
    assert found[SW, "full", "memory", "steps"].exponent == pytest.approx(1.0)
    assert found[SW, "force", "memory", "steps"].exponent == pytest.approx(0.0)
    assert found[SW, "force", "memory", "atoms"].exponent == pytest.approx(1.0)
    assert found[SW, "force", "time", "steps"].sizes == (16, 64, 256, 1024)
    assert found[CHGNET, "force", "time", "atoms"].sizes == (31, 63, 216)
    assert not any(math.isnan(g.exponent) for g in found.values())


def test_every_target_is_measured_by_the_laptop_preset(results):
    targets = analysis.targets(results)
    assert [target.what for target in targets if target.met is None] == []
    assert len(targets) >= 10


def test_targets_know_their_direction(results):
    met = {(t.what, t.case): t for t in analysis.targets(results)}
    memory = met["memory, torch unrolled / force", "CHGNet, 63 atoms, 40 steps"]
    assert memory.at_least
    assert memory.found == pytest.approx(1.0)
    assert memory.met is False
    growth = met["memory, 1024 / 16 steps, force", "CHGNet, 63 atoms"]
    assert growth.found == pytest.approx(1.0)
    assert growth.met is True


def test_targets_without_measurements():
    assert all(target.met is None for target in analysis.targets(schema.Results(preset="ci")))


def test_disagreement_of_gradients(results):
    comparison = results.find(SW, 63, 64)
    comparison.get("equinox").gradient_norm = 2.2
    exact = ("full", "step", "equinox")
    assert analysis.disagreement(comparison, "equinox", exact) == pytest.approx(0.1)
    assert analysis.disagreement(comparison, "step", exact) == 0.0
    assert analysis.disagreement(comparison, "forward", exact) is None
