"""Real relaxations to write, break and read again."""

from pathlib import Path

import pytest
from ase import Atoms

from bptt_relax import datasets
from bptt_relax.io import Relaxation, to_atoms

FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="session")
def files() -> Path:
    """Outputs of pw.x for two silicon atoms: relaxed, with a free cell, and out of steps."""
    return FILES


@pytest.fixture(scope="session")
def defects() -> datasets.Dataset:
    return datasets.load("silicon-defects")


@pytest.fixture(scope="session")
def relaxation(defects) -> Relaxation:
    """32 atoms of three species in 11 steps."""
    return defects.select(["p32_pair_Al_P_s0"])[0]


@pytest.fixture
def steps(relaxation) -> list[Atoms]:
    """The steps of `relaxation`, to be changed at will."""
    return [
        to_atoms(frame, energy=float(energy), forces=forces.copy(), stress=stress)
        for frame, energy, forces, stress in zip(
            relaxation.frames, relaxation.energies, relaxation.forces, relaxation.stresses, strict=True
        )
    ]


@pytest.fixture(scope="session")
def vasp_folder() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "vasp"
    if not folder.is_dir():
        pytest.skip("the public VASP relaxations (../shared/data/vasp) are not here")
    return folder
