import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from bptt_relax import datasets
from bptt_relax.datasets import merge as merging
from bptt_relax.datasets._bundle import read_text
from bptt_relax.io import to_atoms
from bptt_relax.outcomes import InputError

HERE = Path(datasets.__file__).parent


@pytest.fixture(scope="module")
def frames():
    """Two relaxations as the generator writes them: {name: text}."""
    text, _ = read_text("crystals", HERE)
    jobs = {}
    for block in split_frames(text):
        job = block.split("job=")[1].split()[0]
        jobs[job] = jobs.get(job, "") + block
    return {job: jobs[job] for job in ("x_Si_dia_vcrelax_s0", "x_Ge_dia_vcrelax_s0")}


def split_frames(text):
    lines = text.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        n = int(lines[at]) + 2
        yield "".join(lines[at : at + n])
        at += n


@pytest.fixture
def results(tmp_path, frames):
    folder = tmp_path / "results"
    folder.mkdir()
    for job, text in frames.items():
        (folder / f"{job}.extxyz").write_text(text)
    return folder


def test_merge_stores_every_character_and_is_repeatable(tmp_path, results, frames):
    into = tmp_path / "data"
    report = merging.merge([results], into)
    assert report.added == sorted(frames)
    assert not report.refused
    text, _ = read_text("crystals", into)
    assert text == "".join(frames[job] for job in sorted(frames))
    before = {path.name: path.read_bytes() for path in into.iterdir()}
    again = merging.merge([results, results], into)
    assert not again.added
    assert again.known == [*sorted(frames), *sorted(frames)]
    assert before == {path.name: path.read_bytes() for path in into.iterdir()}


def test_numbers_are_what_ase_reads(tmp_path, results):
    into = tmp_path / "data"
    merging.merge([results], into)
    for r in datasets.load("crystals", folder=into).relaxations:
        for t, atoms in enumerate(read(results / f"{r.name}.extxyz", ":")):
            ours = to_atoms(r.frames[t], energy=r.energies[t], forces=r.forces[t], stress=r.stresses[t])
            np.testing.assert_array_equal(ours.positions, atoms.positions)
            np.testing.assert_array_equal(ours.cell.array, atoms.cell.array)
            np.testing.assert_array_equal(ours.get_forces(), atoms.get_forces())
            np.testing.assert_array_equal(ours.get_stress(), atoms.get_stress())
            assert ours.get_potential_energy() == atoms.get_potential_energy()
            np.testing.assert_array_equal(ours.numbers, atoms.numbers)
            np.testing.assert_allclose(ours.get_masses(), atoms.get_masses())


def test_what_is_new_is_added_in_a_fixed_order(tmp_path, results, frames):
    first, second = tmp_path / "first", tmp_path / "second"
    merging.merge([results], first)
    late = results / "x_Ge_dia_vcrelax_s0.extxyz"
    late.rename(tmp_path / late.name)
    merging.merge([results], second)
    assert json.loads((second / "manifest.json").read_text())["version"] == 1
    shutil.move(tmp_path / late.name, late)
    report = merging.merge([results], second)
    assert report.added == ["x_Ge_dia_vcrelax_s0"]
    assert json.loads((second / "manifest.json").read_text())["version"] == 2
    name = "crystals.extxyz.xz"
    assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    "fault", ["cut", "step missing", "other numbers", "nan", "no job", "not xyz", "empty"]
)
def test_unfinished_or_changed_results_are_refused(tmp_path, results, frames, fault):
    into = tmp_path / "data"
    job = "x_Si_dia_vcrelax_s0"
    path, text = results / f"{job}.extxyz", frames[job]
    blocks = list(split_frames(text))
    broken = {
        "cut": text[: len(text) // 2],
        "step missing": "".join(blocks[:-1]),
        "nan": "".join(with_nan(blocks)),
        "no job": text.replace("job=", "name="),
        "not xyz": "hello\n",
        "empty": "",
    }
    if fault == "other numbers":
        merging.merge([results], into)
        path.write_text(text.replace("0.", "1.", 1))
    else:
        path.write_text(broken[fault])
    report = merging.merge([results], into)
    assert len(report.refused) == 1
    (reason,) = report.refused.values()
    assert str(path) in reason or job in reason
    stored = {r.name for r in datasets.load("crystals", folder=into).relaxations}
    assert "x_Ge_dia_vcrelax_s0" in stored
    assert (job in stored) == (fault == "other numbers")


def with_nan(blocks):
    lines = blocks[0].splitlines(keepends=True)
    words = lines[2].split()
    words[4] = "nan"
    return ["".join([*lines[:2], " ".join(words) + "\n", *lines[3:]]), *blocks[1:]]


def test_unconverged_relaxations_are_stored_and_rejected_at_load(tmp_path, results, frames):
    job = "x_Si_dia_vcrelax_s0"
    (results / f"{job}.extxyz").write_text(frames[job].replace("converged=T", "converged=F"))
    report = merging.merge([results], tmp_path / "data")
    assert job in report.added
    crystals = report.datasets["crystals"]
    assert [r.name for r in crystals.rejected] == [job]
    assert crystals.rejected[0].relaxation.fmax < 0.05
    assert job in (tmp_path / "data" / "README.md").read_text()
    with pytest.raises(InputError, match="did not converge"):
        crystals.select([job])


def test_command(tmp_path, results, capsys):
    (results / "x_C_dia_vcrelax_s0.failed.out").write_text("")
    assert merging.main([str(results), "--into", str(tmp_path / "data")]) == 0
    out = capsys.readouterr().out
    assert "2 new, 0 known, 1 refused" in out
    assert "x_C_dia_vcrelax_s0: the calculation failed" in out
    assert merging.main([str(tmp_path / "no"), "--into", str(tmp_path / "data")]) == 2
    assert "not a folder" in capsys.readouterr().err


def test_damaged_data_is_never_merged_into(tmp_path, results):
    into = tmp_path / "data"
    merging.merge([results], into)
    stored = into / "crystals.extxyz.xz"
    stored.write_bytes(stored.read_bytes()[:-5])
    before = stored.read_bytes()
    with pytest.raises(InputError, match="damaged"):
        merging.merge([results], into)
    assert stored.read_bytes() == before
