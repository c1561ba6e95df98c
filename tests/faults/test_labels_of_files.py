"""Labels in other units, of another sign, under other names, missing, or no numbers at all."""

import numpy as np
import pytest
from ase.io import write

from bptt_relax import cli, datasets
from bptt_relax.finetuning import own_data
from bptt_relax.io import ReadOptions, inspect, read_relaxations, to_atoms
from bptt_relax.io.labels import STRESS_FACTORS


@pytest.fixture(scope="module")
def squeezed():
    """A relaxation of the cell, 8 atoms of silicon."""
    return datasets.load("crystals").select(["x_Si_dia8_vcrelax_s0"])[0]


@pytest.fixture
def steps(squeezed):
    r = squeezed
    return [
        to_atoms(f, energy=float(e), forces=g.copy(), stress=s)
        for f, e, g, s in zip(r.frames, r.energies, r.forces, r.stresses, strict=True)
    ]


def save(folder, frames, name="a.extxyz"):
    write(folder / name, frames)
    return folder / name


def said(path, **options):
    found = inspect(path, **options)
    return "\n".join(map(str, (*found.rejected, *found.notes)))


def renamed(steps, **names):
    """Labels under other names: energy="REF_energy"; a virial in the place of the stress where that is named."""
    for atoms in steps:
        results = atoms.calc.results
        for label, name in names.items():
            if label == "virial":
                six = results.pop("stress")
                full = six[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
                atoms.info[name] = -full * atoms.get_volume()
            elif label == "forces":
                atoms.arrays[name] = results.pop("forces")
            else:
                atoms.info[name] = results.pop(label)
    return steps


# Units and signs of stresses, without a model


def test_stresses_in_their_unit_pass(tmp_path, steps):
    found = inspect(save(tmp_path, steps))
    assert not found.rejected
    assert "stress" not in said(tmp_path)


@pytest.mark.parametrize("unit", list(STRESS_FACTORS))
def test_stresses_in_another_unit_are_refused(tmp_path, steps, unit):
    for atoms in steps:
        atoms.calc.results["stress"] = atoms.calc.results["stress"] * STRESS_FACTORS[unit]
    found = inspect(save(tmp_path, steps), smax=1e6)
    assert not found.relaxations
    text = "\n".join(map(str, found.rejected))
    assert f"energies and stresses don't belong together as the cell changes: looks like {unit}" in text


def test_huge_stresses_in_a_cell_that_is_given_are_noted(tmp_path):
    r = datasets.load("silicon-defects").select(["p32_pair_Al_P_s0"])[0]
    for factor, noted in ((1.0, False), (-1602.18, True), (160.2, True)):
        frames = [
            to_atoms(f, energy=float(e), forces=g, stress=factor * s)
            for f, e, g, s in zip(r.frames, r.energies, r.forces, r.stresses, strict=True)
        ]
        assert ("perhaps in GPa or kbar" in said(save(tmp_path, frames))) == noted


# Other names


def test_a_virial_is_found_taken_and_tested(tmp_path, steps, squeezed):
    path = save(tmp_path, renamed(steps, virial="REF_virials"))
    assert "no stresses under their usual key, but REF_virials found and not used" in said(path)
    assert "virial_key='REF_virials'" in said(path)
    (r,) = read_relaxations(path, virial_key="REF_virials")
    np.testing.assert_allclose(r.stresses, squeezed.stresses, atol=1e-9)
    for atoms in steps:
        atoms.info["REF_virials"] = -atoms.info["REF_virials"]
    wrong = said(save(tmp_path, steps), virial_key="REF_virials", smax=1e6)
    assert "of the opposite sign" in wrong


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (
            {"energy": "REF_energy", "forces": "REF_forces"},
            {"energy_key": "REF_energy", "forces_key": "REF_forces"},
        ),
        (
            {"energy": "dft_energy", "forces": "dft_forces"},
            {"energy_key": "dft_energy", "forces_key": "dft_forces"},
        ),
        ({"stress": "REF_stress"}, {"stress_key": "REF_stress"}),
        ({"virial": "virials"}, {"virial_key": "virials"}),
    ],
)
def test_labels_under_other_names(tmp_path, steps, squeezed, names, keys, capsys):
    path = save(tmp_path, renamed(steps, **names))
    text = said(path)
    for key, name in keys.items():
        assert f"{name} found and not used" in text
        assert f"{key}='{name}'" in text
    (r,) = read_relaxations(path, **keys)
    for label in ("energies", "forces", "stresses"):
        np.testing.assert_allclose(getattr(r, label), getattr(squeezed, label), atol=1e-7)
    # The same on both command lines.
    flat = [word for key, name in keys.items() for word in (f"--{key.replace('_', '-')}", name)]
    assert cli.main(["check", str(path), *flat]) == 0
    assert "found and not used" not in capsys.readouterr().out
    assert cli.main(["check", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(f"--{key.replace('_', '-')} {name}" in out for key, name in keys.items())
    # Everything that check says finetune says too.
    own_data.read(path, ReadOptions())
    err = capsys.readouterr().err
    assert all(f"--reading.{key.replace('_', '-')} {name}" in err for key, name in keys.items())
    notes = [line.replace("--", "--reading.") for line in out.splitlines() if line.startswith("note: ")]
    assert notes
    assert notes == err.splitlines()


def test_a_second_set_of_labels_is_said(tmp_path, steps):
    for atoms in steps:
        atoms.arrays["pbe0_forces"] = 1.1 * atoms.calc.results["forces"]
        atoms.info["E0"] = 1.0
    text = said(save(tmp_path, steps))
    assert "pbe0_forces found and not used beside the forces that are" in text
    assert "E0 found and not used beside the energies that are" in text


def test_everything_else_that_is_not_used_is_said(tmp_path, steps):
    for atoms in steps:
        atoms.arrays["hirshfeld"] = np.ones(8)
        atoms.arrays["frozen"] = np.arange(8) < 2
        atoms.info["temperature"] = 300.0
    text = said(save(tmp_path, steps))
    assert "found and not used: hirshfeld, temperature" in text
    assert "flags frozen found and not used" in text
    assert "move_mask" in text


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("forces_key", "nowhere", "under key nowhere"),
        ("forces_key", "short", "short, because it holds 8 numbers instead of 24"),
        ("energy_key", "word", "word, because it holds no numbers"),
        ("stress_key", "short", "because it holds 8 numbers instead of 6 or 9"),
        ("virial_key", "short", "because it holds 8 numbers instead of 6 or 9"),
    ],
)
def test_a_key_that_can_not_be_used(tmp_path, steps, key, value, why):
    for atoms in steps:
        atoms.arrays["short"] = np.ones(8)
        atoms.info["word"] = "none"
    found = inspect(save(tmp_path, steps), **{key: value})
    assert not found.relaxations
    assert why in str(found.rejected[0])
    assert f"given was {key}='{value}'" in str(found.rejected[0])


# No numbers


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("label", ["energy", "forces", "stress"])
def test_a_step_whose_label_is_no_number_is_left_out_and_counted(tmp_path, steps, label, value):
    for t in (3, 5):
        results = steps[t].calc.results
        if label == "energy":
            results["energy"] = value
        else:
            results[label] = results[label].copy()
            results[label].flat[1] = value
    path = save(tmp_path, steps, "a.traj")
    (r,) = read_relaxations(path)
    assert len(r.frames) == len(steps) - 2
    assert np.isfinite(r.energies).all()
    assert np.isfinite(r.forces).all()
    text = f"NaN or infinite: {label} at step 3, {label} at step 5; 2 of {len(steps)} steps left out"
    assert text in said(path)


@pytest.mark.parametrize("label", ["energy", "forces", "stress"])
def test_a_target_whose_label_is_no_number_is_refused(tmp_path, steps, label):
    results = steps[-1].calc.results
    results[label] = np.nan if label == "energy" else results[label] * np.nan
    found = inspect(save(tmp_path, steps, "a.traj"))
    assert not found.relaxations
    assert "is NaN or infinite at the last step" in found.rejected[0].text


def test_labels_that_some_steps_lack_are_counted(tmp_path, steps):
    for t in (1, 2):
        del steps[t].calc.results["forces"]
    assert f"no forces at 2 of {len(steps)} steps (1, 2)" in said(save(tmp_path, steps, "a.traj"))


def test_relaxations_without_forces_among_others_are_said(tmp_path, steps):
    r = datasets.load("silicon-defects").select(["p32_bc_O_s0"])[0]
    save(tmp_path, steps)
    save(tmp_path, [to_atoms(r.initial), to_atoms(r.relaxed)], "b.extxyz")
    text = said(tmp_path)
    assert (
        "1 of 2 relaxations have no forces (b): BPTT learns from where they end, force matching learns nothing"
        in text
    )
    assert "have no forces" not in said(tmp_path / "a.extxyz")
