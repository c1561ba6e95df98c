"""Labels against a model: a potential that compiles in a moment makes both."""

import numpy as np
import pytest

from bptt_relax import cli, datasets, units
from bptt_relax.analysis import agreement, compare_labels
from bptt_relax.analysis.agreement import humps
from bptt_relax.io import write_relaxations
from bptt_relax.models import pretrained


@pytest.fixture(scope="module")
def model():
    return pretrained.load("stillinger-weber")


@pytest.fixture(scope="module")
def silicon(model):
    """Starts and ends of silicon, labelled by the model itself but for some per cent."""
    found = datasets.load("silicon-defects").relaxations
    chosen = [r for r in found if set(r.initial.species.tolist()) == {14} and r.info["level"] == "p32"][:8]
    rng = np.random.default_rng(0)

    def blurred(values):
        return values * (1 + 0.03 * rng.normal(size=values.shape))

    return [
        r._replace(
            frames=(r.initial, r.relaxed),
            start=0,
            energies=p.energies,
            forces=blurred(p.forces),
            stresses=blurred(p.stresses),
        )
        for r, p in zip(chosen, agreement.predict(*model, chosen), strict=True)
    ]


def scaled(relaxations, energy=1.0, force=1.0, stress=1.0):
    return [
        r._replace(energies=r.energies * energy, forces=r.forces * force, stresses=r.stresses * stress)
        for r in relaxations
    ]


def test_labels_in_our_units_raise_no_doubt(silicon, model):
    found = compare_labels(*model, silicon)
    assert [s.split()[0] for s in found.sentences] == ["energies", "forces", "stresses"]
    assert found.doubts == ()


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        # Energies and forces that belong together, and no test without a model can tell.
        ({"energy": 1 / units.RYDBERG, "force": 1 / units.RYDBERG}, "forces in rydberg/angstrom"),
        ({"energy": -1.0, "force": -1.0}, "gradients instead of forces"),
        ({"energy": 1000.0, "force": 1000.0}, "energies or forces in meV"),
        ({"stress": -1602.18}, "stresses in kbar, of the opposite sign"),
    ],
)
def test_units_that_are_wrong_alike_are_told_by_the_model(silicon, model, factors, said):
    doubts = "\n".join(compare_labels(*model, scaled(silicon, **factors)).doubts)
    assert said in doubts


def test_two_methods_in_one_set(silicon, model):
    mixed = [
        r._replace(energies=r.energies + 0.3 * len(r.initial.species)) if k % 2 else r
        for k, r in enumerate(silicon)
    ]
    (doubt,) = [d for d in compare_labels(*model, mixed).doubts if "two groups" in d]
    assert all((r.name in doubt) == bool(k % 2) for k, r in enumerate(silicon))


def test_two_kinds_of_forces_in_one_set(silicon, model):
    mixed = [r._replace(forces=1.4 * r.forces) if k % 2 else r for k, r in enumerate(silicon)]
    (doubt,) = [d for d in compare_labels(*model, mixed).doubts if "fall into two groups" in d]
    assert doubt.startswith("forces, against those of stillinger-weber")
    assert all((r.name in doubt) == bool(k % 2) for k, r in enumerate(silicon))


def test_humps():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=20), 50 + rng.normal(size=5)
    assert humps(one) is None
    assert one.max() < humps(np.concatenate([one, other])) < other.min()
    assert humps(np.append(one, 50.0)) is None  # one that stands apart is no group


def test_what_the_model_does_not_cover_is_said(model):
    others = datasets.load("silicon-defects").select(["p32_pair_Al_P_s0"])
    found = compare_labels(*model, others)
    assert "covers none of these relaxations" in found.doubts[0]


def test_check_compares_with_a_model(silicon, tmp_path, capsys):
    write_relaxations(tmp_path / "a.extxyz", scaled(silicon, 1 / units.RYDBERG, 1 / units.RYDBERG))
    assert cli.main(["check", str(tmp_path), "--model", "stillinger-weber", "--allow-unconverged"]) == 0
    assert "note: forces against stillinger-weber" in capsys.readouterr().out
