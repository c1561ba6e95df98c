"""Nequix against the nequix package: energy, forces and stress of the published models, as that package gave them.

The package pins CUDA and changes JAX's settings when imported, so its numbers are recorded and not made here.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms

from bptt_relax import neighbors, systems, trees
from bptt_relax.models import pretrained

pytestmark = pytest.mark.parity

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"
RECORDED = json.loads((Path(__file__).parent / "nequix_reference.json").read_text())


@pytest.fixture(scope="module", params=RECORDED["predictions"])
def predict(request, make_structure):
    """Predictions of one model in double precision, so that what is left is the other side's rounding."""
    source = WEIGHTS / f"{request.param}.nqx"
    if not source.exists():
        pytest.skip("the published nequix files are not on this machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BPTT_RELAX_CACHE", "/nowhere/to/write")
        potential, params = pretrained.load(request.param, source=source)
    params = trees.cast(params, np.float64)
    structures = {
        name: make_structure(Atoms(**given, pbc=True)) for name, given in RECORDED["structures"].items()
    }
    layout = systems.plan_layout(list(structures.values()), potential.graph)

    @jax.jit
    def apply(positions, system):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        return potential.apply(params, positions, system, graph), graph.overflow

    def predict(name):
        found, overflow = apply(*systems.prepare(structures[name], potential.graph, layout))
        assert not overflow
        return found, RECORDED["predictions"][request.param][name]

    return predict


@pytest.mark.parametrize("name", RECORDED["structures"])
def test_energy_forces_and_stress(predict, name):
    found, expected = predict(name)
    assert abs(float(found.energy) - expected["energy"]) <= 1e-4
    np.testing.assert_allclose(found.forces[: len(expected["forces"])], expected["forces"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.stress, expected["stress"], rtol=0, atol=1e-6)
