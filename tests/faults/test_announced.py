"""Files that announce more than they hold, are nested deeply, or whose archive is damaged: one sentence, at once."""

import bz2
import gzip
import lzma
import subprocess
import sys
import time

import pytest
from ase.build import bulk
from ase.io import write

from bptt_relax.io import inspect

HUGE = "1000000000000"


def refusal(path) -> str:
    started = time.monotonic()
    found = inspect(path)
    assert time.monotonic() - started < 10
    assert not found.relaxations
    (problem,) = found.rejected
    return str(problem)


def poscar() -> str:
    return "a\n1.0\n5 0 0\n0 5 0\n0 0 5\nSi\n1\nDirect\n0 0 0\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.extxyz",
            f"{HUGE}\n\nSi 0 0 0\n",
            f"frame 0 (line 1) announces {HUGE} atoms, but only 1 lines follow",
        ),
        (
            "a.xyz",
            "2\n\nSi 0 0 0\nSi 1 1 1\n7\n\nSi 0 0 0\n",
            "frame 1 (line 5) announces 7 atoms, but only 1 lines",
        ),
        (
            "a.xyz",
            "2\n\nSi 0 0 0\nSi 1 1 1\nSi 2 2 2\n",
            "frame 1 (line 5) should begin with a number of atoms",
        ),
        ("a.extxyz", f"{'9' * 5000}\n\nSi 0 0 0\n", "frame 0 (line 1)"),
        ("POSCAR", poscar().replace("\n1\nD", f"\n{HUGE}\nD"), f"announces {HUGE} atoms or other entries"),
        ("OUTCAR", f" vasp.6\n POTCAR: PAW_PBE Si x\n   ions per type =   {HUGE}\n", f"announces {HUGE}"),
        (
            "vasprun.xml",
            f"<?xml version='1.0'?><modeling><atoms> {HUGE} </atoms></modeling>",
            f"announces {HUGE}",
        ),
        ("a.pwo", f"     Program PWSCF v.7\n     number of atoms/cell      =  {HUGE}\n", f"announces {HUGE}"),
        ("vasprun.xml", "<?xml version='1.0'?>" + "<a>" * 200_000, "a vasprun.xml of VASP"),
        ("a.extxyz", f'1\nx=_JSON "{"[" * 100_000}"\nSi 0 0 0\n', "has no relaxed partner"),
    ],
)
def test_more_than_a_file_can_hold(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    if name == "POSCAR":
        (tmp_path / "CONTCAR").write_text(poscar())
    message = refusal(tmp_path)
    assert said in message
    assert name in message


def test_a_trajectory_of_too_many_atoms(tmp_path):
    write(tmp_path / "a.traj", [bulk("Si")] * 3)
    content = (tmp_path / "a.traj").read_bytes()
    told, huge = b'[2, 3], "float64"', b'[99999999], "f8" '
    assert told in content
    assert len(told) == len(huge)
    (tmp_path / "a.traj").write_bytes(content.replace(told, huge))
    assert "announces 99999999 atoms or other entries" in refusal(tmp_path)
    (tmp_path / "a.traj").write_bytes(content[:-40])
    assert "damaged" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
@pytest.mark.parametrize("name", ["a.extxyz", "a.out", "OUTCAR", "vasprun.xml"])
def test_damaged_archives(tmp_path, suffix, compress, name):
    content = bytearray(compress(b"1\n\nSi 0 0 0\n" * 500))
    for place in (len(content) // 2, 12):
        content[place] ^= 0xFF
    (tmp_path / f"{name}{suffix}").write_bytes(content)
    message = refusal(tmp_path)
    assert "cannot unpack" in message
    assert f"{name}{suffix}" in message


def test_the_command_says_it_in_one_line_and_ends_with_two(tmp_path):
    (tmp_path / "a.extxyz").write_text(f"{HUGE}\n\nSi 0 0 0\n")
    command = [sys.executable, "-m", "bptt_relax", "check", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
