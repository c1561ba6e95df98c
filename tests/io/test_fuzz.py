"""Damaged files of every format: read, or refused with a sentence, and at once; never an exception of a parser's."""

import bz2
import gzip
import lzma
import random
import re
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from ase.io import write

from bptt_relax.io import inspect, inspect_structures, to_atoms

MUTATIONS = 200
SECONDS = 20
"""No file of a few thousand bytes may keep anybody waiting for longer, not even on a busy machine."""
MORE_MEMORY = 2**30
"""bytes."""

_WORDS = (
    *(b"nan", b"inf", b"-1", b"0", b"1e308", b"****", b"", b"\x00", b"\xff\xfe", b"T", b"1000000000000"),
    *(b"[" * 4000, b'_JSON "' + b"[" * 20000, b"<a>" * 3000, b"9" * 30, b"2147483648", b"-Infinity"),
)


@pytest.fixture(scope="module")
def contents(squeezed, vasp_files, files, tmp_path_factory) -> dict[str, bytes]:
    """A small good file of every format."""
    short = squeezed._replace(
        frames=squeezed.frames[-4:],
        energies=squeezed.energies[-4:],
        forces=squeezed.forces[-4:],
        stresses=squeezed.stresses[-4:],
    )
    vasp = vasp_files(short, ISIF=3)
    folder = tmp_path_factory.mktemp("good")
    steps = [
        to_atoms(f, energy=float(e), forces=g, stress=s)
        for f, e, g, s in zip(short.frames, short.energies, short.forces, short.stresses, strict=True)
    ]
    for name in ("a.extxyz", "a.traj", "a.db"):
        write(folder / name, steps)
    found = {name: (folder / name).read_bytes() for name in ("a.extxyz", "a.traj", "a.db")}
    pw = lzma.decompress((files / "si2_restart2.pwo.xz").read_bytes())
    found |= {"OUTCAR": vasp.outcar().encode(), "vasprun.xml": vasp.vasprun().encode(), "a.pwo": pw}
    found |= {"POSCAR": vasp.poscar(0, held=[0]).encode(), "CONTCAR": vasp.poscar(-1, held=[0]).encode()}
    found |= {"a.extxyz.gz": gzip.compress(found["a.extxyz"]), "OUTCAR.xz": lzma.compress(found["OUTCAR"])}
    return found | {"a.out.bz2": bz2.compress(pw)}


FORMATS = (
    *("a.extxyz", "a.traj", "a.db", "OUTCAR", "vasprun.xml", "a.pwo", "POSCAR", "CONTCAR"),
    *("a.extxyz.gz", "OUTCAR.xz", "a.out.bz2"),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut out, doubled; words and lines replaced, removed, repeated."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        if len(data) < 4:
            break
        at = rng.randrange(len(data))
        line = slice(data.rfind(b"\n", 0, at) + 1, (data.find(b"\n", at) + 1) or len(data))
        match rng.randrange(8):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.choice((1, 10, 200, 5000))]
            case 2:
                del data[at:]
            case 3:
                data[at:at] = rng.choice(_WORDS)
            case 4:
                words = list(re.finditer(rb"\S+", data[line]))
                if words:
                    word = rng.choice(words)
                    data[line.start + word.start() : line.start + word.end()] = rng.choice(_WORDS)
            case 5:
                data[at:at] = data[at : at + rng.choice((10, 1000))]
            case 6:
                del data[line]
            case 7:
                data[line.start : line.start] = data[line]
    return bytes(data)


@contextmanager
def in_time_and_memory():
    """Fail after some seconds or with some more memory; a hang would end nowhere, and no memory takes others along."""

    def late(*_):
        raise TimeoutError(f"not read within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_MEMORY, limits[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", FORMATS)
def test_good_files_are_good(contents, tmp_path, name):
    for other in (name, {"POSCAR": "CONTCAR", "CONTCAR": "POSCAR"}.get(name, name)):
        (tmp_path / other).write_bytes(contents[other])
    found = inspect(tmp_path)
    assert not found.rejected
    assert found.relaxations


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_end_in_a_sentence(contents, tmp_path, name):
    rng = random.Random(name)
    other = {"POSCAR": "CONTCAR", "CONTCAR": "POSCAR"}.get(name)
    if other:
        (tmp_path / other).write_bytes(contents[other])
    refused = 0
    for k in range(MUTATIONS):
        (tmp_path / name).write_bytes(mutated(contents[name], rng))
        try:
            with in_time_and_memory():
                found = inspect(tmp_path, allow_unconverged=k % 2 == 0)
                if k % 4 == 0:
                    inspect_structures([tmp_path / name])
        except Exception as error:
            raise AssertionError(f"mutation {k} of {name} is not refused with a sentence") from error
        for problem in (*found.rejected, *found.notes):
            said = str(problem)
            # What Python says of itself is no sentence about the file.
            assert not re.search(
                r"list index|could not convert|NoneType|invalid literal|has no attribute", said
            ), said
            assert said.isprintable(), said
            assert "does not fit into memory" not in said, (
                "it is told beforehand that the file can't hold so much"
            )
        refused += bool(found.rejected)
    assert refused > MUTATIONS // 10
