import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from bptt_relax import datasets
from bptt_relax.datasets import acceptance, silicon
from bptt_relax.io import check_split, geometry, largest_forces, start_below
from bptt_relax.outcomes import InputError

HERE = Path(datasets.__file__).parent


@pytest.fixture(scope="module", params=datasets.NAMES)
def dataset(request):
    return datasets.load(request.param)


@pytest.fixture(scope="module")
def defects():
    return datasets.load("silicon-defects")


@pytest.fixture
def copy(tmp_path):
    for path in HERE.iterdir():
        if path.suffix in (".xz", ".json"):
            shutil.copy(path, tmp_path)
    return tmp_path


def test_accepted_relaxations_obey_the_rule(dataset):
    assert dataset.relaxations
    assert [r.name for r in dataset.relaxations] == sorted(r.name for r in dataset.relaxations)
    for r in dataset.relaxations:
        assert r.converged
        assert r.fmax <= acceptance.FINAL_FORCE
        assert largest_forces(r)[r.start] < acceptance.START_FORCE
        assert (largest_forces(r)[: r.start] >= acceptance.START_FORCE).all()
        assert r.start < len(r.frames) - 1
        assert len(geometry.fragments(r.relaxed, acceptance.BOND_FACTOR)) == 1


def test_shapes_units_and_names(dataset):
    for r in dataset.relaxations:
        T, n = len(r.frames), len(r.initial.species)
        assert r.energies.shape == (T,)
        assert r.forces.shape == (T, n, 3)
        assert r.stresses.shape == (T, 3, 3)
        assert {f.name for f in r.frames} == {r.name}
        np.testing.assert_allclose(r.forces.sum(axis=1), 0.0, atol=1e-3)  # pw.x removes the net force
        assert r.energies[-1] < r.energies[0]


def test_defects_keep_their_cell_and_crystals_need_not(defects):
    for r in defects.relaxations:
        assert all(np.array_equal(f.cell, r.initial.cell) for f in r.frames)
    assert any(not np.allclose(r.initial.cell, r.relaxed.cell) for r in datasets.load("crystals").relaxations)


def test_groups(defects):
    by_name = {r.name: r for r in defects.relaxations}
    assert by_name["p32_split110_Si_s0"].group == by_name["d32_split110_Si_s0"].group == "split110_Si_s0"
    for sparse, dense in silicon.twins(defects.relaxations):
        np.testing.assert_array_equal(sparse.frames[0].positions, dense.frames[0].positions)
    crystals = {r.name: r.group for r in datasets.load("crystals").relaxations}
    assert crystals["x_Si_dia_vcrelax_s0"] == crystals["x_Si_dia8_vcrelax_s0"] == "Si_dia"
    assert crystals["x_Si_bc8_vcrelax_s0"] == "Si_bc8"


def test_select(defects):
    names = ["p32_V_s0", "p32_VV_s0"]
    assert [r.name for r in defects.select(names)] == names
    with pytest.raises(InputError, match=r"no accepted relaxation nothing \(unknown\)"):
        defects.select(["nothing"])


def test_loading_is_quick(defects):
    frames = sum(len(r.frames) for r in defects.relaxations)
    started = time.process_time()
    datasets.load("silicon-defects")
    # Measured 0.3 ms a frame; the limit leaves room for a loaded machine.
    assert time.process_time() - started < 0.5 + 0.002 * frames


def test_card_and_manifest_agree_with_the_data(dataset):
    manifest = json.loads((HERE / "manifest.json").read_text())
    entry = manifest["datasets"][dataset.name]
    everything = [*dataset.relaxations, *(r.relaxation for r in dataset.rejected)]
    assert entry["relaxations"] == len(everything)
    assert entry["frames"] == sum(len(r.frames) for r in everything)
    assert entry["sha256"] == dataset.sha256
    assert dataset.sha256 in (HERE / "README.md").read_text()


def test_unknown_name():
    with pytest.raises(InputError, match="no data set 'gold'; there are silicon-defects, crystals"):
        datasets.load("gold")


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "manifest"])
def test_damaged_files_are_refused_with_the_way_to_restore_them(copy, damage):
    path = copy / "silicon_defects.extxyz.xz"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    elif damage == "missing":
        path.unlink()
    else:
        (copy / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="silicon_defects.extxyz.xz|manifest.json") as caught:
        datasets.load("silicon-defects", folder=copy)
    assert "git checkout" in str(caught.value)


# The rule of acceptance.


def test_rejected_for_force_and_for_not_converging(defects):
    r = defects.select(["p32_V_s0"])[0]
    _, reasons = acceptance.judge(r._replace(converged=False, forces=3 * r.forces))
    assert len(reasons) == 2
    assert "did not converge" in reasons[0]
    assert "largest force at the end" in reasons[1]


def test_rejected_when_broken_apart(defects):
    r = defects.select(["p32_V_s0"])[0]
    # In a wide cell there is room to take an atom away from all others.
    frames = [f._replace(cell=f.cell * 3.0) for f in r.frames]
    positions = frames[-1].positions.copy()
    positions[4] += [8.0, 8.0, 8.0]
    frames[-1] = frames[-1]._replace(positions=positions)
    _, reasons = acceptance.judge(r._replace(frames=tuple(frames)))
    assert any("broken apart" in reason for reason in reasons)
    assert any("atom 4 moves" in reason for reason in reasons)


def test_harsh_starts_are_moved_or_rejected(defects):
    r = defects.select(["p32_split110_B_s0"])[0]._replace(start=0)
    fair, reasons = acceptance.judge(r)
    assert not reasons
    assert fair.start == 1 == start_below(r, acceptance.START_FORCE).start
    _, reasons = acceptance.judge(r._replace(frames=r.frames[:2], forces=r.forces[:1].repeat(2, axis=0)))
    assert any("no frame before the last" in reason for reason in reasons)


# The split.


def test_default_split(defects):
    division = silicon.split(defects.relaxations)
    check_split(defects.relaxations, division)
    assert all(name.startswith("p32") for part in division for name in part)
    assert min(map(len, division)) >= 3
    everything = silicon.split(defects.relaxations, level=None)
    check_split(defects.relaxations, everything)
    assert sum(map(len, everything)) == len(defects.relaxations)
    unseen = {r.kind for r in defects.select(division.unseen)}
    assert unseen <= set(silicon.UNSEEN)
    assert not unseen & {r.kind for r in defects.select(division.train + division.validation)}


def test_nothing_that_is_added_moves_what_is_there(defects):
    whole = silicon.split(defects.relaxations)
    part = silicon.split(defects.relaxations[::3])
    for name in part._fields:
        assert set(getattr(part, name)) <= set(getattr(whole, name))


def test_shares_over_all_kinds_and_seeds(defects):
    template = defects.relaxations[0]
    parts = [
        silicon.part_of(template._replace(kind=kind, group=f"{kind}_s{seed}"))
        for kind in silicon.SEEN
        for seed in range(8)
    ]
    counts = {part: parts.count(part) / len(parts) for part in set(parts)}
    assert counts == {"train": 5 / 8, "validation": 1 / 8, "test": 2 / 8}
    for seed in range(8):
        assert parts[seed::8].count("test") == 6
    assert not set(silicon.SEEN) & set(silicon.UNSEEN)


def test_other_data_is_refused(defects):
    with pytest.raises(InputError, match=r"kind gold .* io\.splits\.split for other data"):
        silicon.part_of(defects.relaxations[0]._replace(kind="gold"))
