"""Files of structures, and the command as a function."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import write
from rich.console import Console

from bptt_relax import compilation
from bptt_relax.relaxing import run as relaxing
from bptt_relax.relaxing.settings import RelaxSettings
from bptt_relax.report import Reporter


@pytest.fixture(autouse=True)
def _keep_the_settings_of_the_tests(monkeypatch):
    # The tests have a compilation cache of their own.
    monkeypatch.setattr(compilation, "keep_compiled_programs", lambda: None)


@pytest.fixture
def silicon() -> list[Atoms]:
    """Three small cells, one with a fixed atom, a tag and labels of its start."""
    rng = np.random.default_rng(0)
    cells = [bulk("Si", a=5.5).repeat((1, 1, k)) for k in (1, 2, 4)]
    for atoms in cells:
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
    cells[1].set_constraint(FixAtoms([0]))
    cells[1].set_tags([7, 0, 0, 0])
    cells[1].info |= {"REF_energy": -3.0, "origin": "a test"}
    cells[1].arrays["REF_forces"] = np.ones((4, 3))
    return cells


@pytest.fixture
def folder(tmp_path, silicon) -> Path:
    """A folder with these structures in two files."""
    folder = tmp_path / "structures"
    (folder / "vasp").mkdir(parents=True)
    write(folder / "two.extxyz", silicon[:2])
    write(folder / "vasp" / "POSCAR", silicon[2])
    return folder


@pytest.fixture
def relax(tmp_path) -> Callable[..., tuple[dict[str, str], str]]:
    """Relax files with Stillinger-Weber; returns how they ended and what was reported."""

    def relax(*paths, **settings) -> tuple[dict[str, str], str]:
        text = StringIO()
        options = {"out": tmp_path / "out.extxyz", "model": "stillinger-weber", "fmax": 0.01, "workers": 1}
        reporter = Reporter(Console(file=text, width=200), plain=True)
        found = relaxing.run([Path(path) for path in paths], RelaxSettings(**(options | settings)), reporter)
        return found, text.getvalue()

    return relax
