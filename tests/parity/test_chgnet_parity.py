"""CHGNet against the chgnet package itself (torch): energy, forces and stress of the published models."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read

from bptt_relax import neighbors, systems, trees
from bptt_relax.models import pretrained

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore"),  # of torch, pymatgen and chgnet, whatever they are today
]

PUBLISHED_NAMES = {"chgnet-0.3.0": "0.3.0", "chgnet-0.2.0": "0.2.0", "chgnet-r2scan": "r2scan"}
LARGE = Path(__file__).parents[3] / "shared" / "data" / "adapt" / "si216_NiBr_relax_20frames.extxyz"


@pytest.fixture(scope="module", params=PUBLISHED_NAMES)
def models(request):
    pytest.importorskip("torch", reason="needs torch and chgnet: pip install -e '.[parity]'")
    chgnet_model = pytest.importorskip("chgnet.model", reason="needs chgnet: pip install -e '.[parity]'")
    theirs = chgnet_model.CHGNet.load(
        model_name=PUBLISHED_NAMES[request.param], use_device="cpu", verbose=False
    )
    potential, params = pretrained.load(request.param)
    # Double precision here, so that what is left is the other side's rounding.
    return theirs, potential, trees.cast(params, jnp.float64)


def structure(name: str) -> Atoms:
    rng = np.random.default_rng(0)
    if name == "silicon vacancy":
        atoms = bulk("Si", cubic=True, a=5.45).repeat(2)
        del atoms[0]
    elif name == "sodium chloride":
        atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    elif name == "copper":
        return bulk("Cu", a=3.6)
    else:
        if not LARGE.exists():
            pytest.skip("the 217-atom cell is not on this machine")
        return read(LARGE, index=0)
    atoms.positions += 0.08 * rng.normal(size=atoms.positions.shape)
    return atoms


@pytest.mark.parametrize("name", ["silicon vacancy", "sodium chloride", "copper", "silicon with Br and Ni"])
def test_energy_forces_and_stress(models, name, make_structure):
    theirs, potential, params = models
    atoms = structure(name)
    from pymatgen.io.ase import AseAtomsAdaptor

    expected = theirs.predict_structure(AseAtomsAdaptor.get_structure(atoms), task="efs")
    positions, system = systems.prepare(make_structure(atoms), potential.graph)
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    found = jax.jit(potential.apply)(params, positions, system, graph)
    n = len(atoms)
    # chgnet works in single precision. A thousand eV have two roundings of 1e-4 eV in them: of the sum over atoms and
    # of its division by their number.
    rounding = 2 * abs(float(found.energy)) * float(np.finfo(np.float32).eps)
    assert abs(float(found.energy) - n * float(expected["e"])) <= max(1e-4, rounding)
    np.testing.assert_allclose(found.forces[:n], expected["f"], rtol=0, atol=1e-4)
    gpa = 160.21766208
    np.testing.assert_allclose(np.asarray(found.stress) * gpa, expected["s"], rtol=0, atol=1e-3 * gpa / 100)
