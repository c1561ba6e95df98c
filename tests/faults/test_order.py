"""Several relaxations taken for one, steps out of order, cells without a volume on the way, atoms perhaps held."""

import numpy as np
import pytest
from ase.io import write

from bptt_relax import datasets
from bptt_relax.io import continuity, inspect, read_relaxations, to_atoms


@pytest.fixture(scope="module")
def relaxation():
    return datasets.load("silicon-defects").select(["p32_split110_B_s0"])[0]


def atoms_of(r, labels=("energy", "forces")):
    return [
        to_atoms(f, **{k: v for k, v in {"energy": float(e), "forces": g}.items() if k in labels})
        for f, e, g in zip(r.frames, r.energies, r.forces, strict=True)
    ]


def refusals(path, **options):
    return "\n".join(p.text for p in inspect(path, **options).rejected)


@pytest.mark.parametrize("name", ["silicon-defects", "crystals"])
def test_bundled_relaxations_are_one_each_and_in_order(name):
    for r in datasets.load(name).relaxations:
        assert continuity.breaks(r) == [], r.name
        assert not continuity.are_mixed_up(r), r.name


@pytest.mark.parametrize("labels", [("energy", "forces"), ("energy",), ("forces",), ()])
def test_two_relaxations_in_one_file(tmp_path, relaxation, labels):
    second = datasets.load("silicon-defects").select(["p32_split110_B_s1"])[0]
    frames = atoms_of(relaxation, labels) + atoms_of(second, labels)
    write(tmp_path / "a.extxyz", frames)
    text = refusals(tmp_path)
    assert "seems to be 2 relaxations one after the other" in text
    assert f"another begins at step {len(relaxation.frames)} (an atom jumps" in text
    # Marked, they are two.
    for k, frame in enumerate(frames):
        frame.info["job"] = "first" if k < len(relaxation.frames) else "second"
    write(tmp_path / "a.extxyz", frames)
    assert [r.name for r in read_relaxations(tmp_path)] == ["first", "second"]


@pytest.mark.parametrize("seed", range(3))
def test_steps_in_another_order(tmp_path, relaxation, seed):
    frames = atoms_of(relaxation)
    order = np.random.default_rng(seed).permutation(len(frames) - 1)
    write(tmp_path / "a.extxyz", [*(frames[k] for k in order), frames[-1]])
    text = refusals(tmp_path, allow_unconverged=True)
    assert "not in the order in which they were computed" in text or "relaxations one after the other" in text


def test_a_cell_without_a_volume_on_the_way(tmp_path, relaxation):
    frames = atoms_of(relaxation)
    cell = frames[3].cell.array.copy()
    cell[2] = cell[1]
    frames[3].set_cell(cell)
    write(tmp_path / "a.extxyz", frames)
    assert "cell has no volume although pbc is TTT, or a number is absurd (step 3)" in refusals(tmp_path)


def test_atoms_that_alone_carry_the_forces_are_perhaps_held(tmp_path, relaxation):
    held = [4, 9]
    frames = atoms_of(relaxation, ("forces",))
    for frame in frames:
        frame.positions[held] = frames[0].positions[held]
        frame.calc.results["forces"][held] = [0.0, 0.3, 0.4]
    write(tmp_path / "a.extxyz", frames)
    text = refusals(tmp_path, start_below=None)
    assert (
        "final fmax 0.5 > 0.05 eV/angstrom, on atoms 4, 9 alone, which never moved at all: perhaps held"
        in text
    )
    # All of them: that is no constraint.
    for frame in frames:
        frame.calc.results["forces"][:] = 0.3
    write(tmp_path / "a.extxyz", frames)
    assert "perhaps held" not in refusals(tmp_path, start_below=None)


def test_what_starts_where_another_ends_is_in_its_group(tmp_path, relaxation):
    """Without anything that says how they were computed: not one relaxation, but never torn apart."""
    frames = atoms_of(relaxation)
    write(tmp_path / "a.extxyz", frames)
    again = [frame.copy() for frame in frames[-2:]]
    again[0].positions = frames[-1].positions
    again[1].positions = frames[-1].positions + 0.1 * np.sin(np.arange(len(frames[-1]) * 3)).reshape(-1, 3)
    write(tmp_path / "b.extxyz", again)
    found = inspect(tmp_path)
    assert len(found.relaxations) == 2
    assert len({r.group for r in found.relaxations}) == 1
    assert any(
        "its initial structure is the relaxed one of a: put into group a" in str(n) for n in found.notes
    )
