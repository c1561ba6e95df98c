"""SevenNet against the sevenn package: energy, forces and stress of the published models, as that package gave them."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms

from bptt_relax import neighbors, systems, trees
from bptt_relax.models import pretrained
from bptt_relax.outcomes import ModelError

pytestmark = pytest.mark.parity

RECORDED = json.loads((Path(__file__).parent / "sevennet_reference.json").read_text())
QUICK = ("sevennet-0", "sevennet-mf-0-r2scan")
"""What runs every time: each model compiles for some ten seconds."""

NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RECORDED["predictions"]
]


@pytest.fixture(scope="module", params=NAMES)
def predict(request, make_structure, tmp_path_factory):
    """Predictions of one model in double precision, so that what is left is the other side's rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BPTT_RELAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            potential, params = pretrained.load(request.param)
        except ModelError as error:
            pytest.skip(f"no weights: {error}")
    params = trees.cast(params, np.float64)
    structures = {name: make_structure(Atoms(**given)) for name, given in RECORDED["structures"].items()}
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
    np.testing.assert_allclose(found.stress, expected["stress"], rtol=0, atol=1e-5)
