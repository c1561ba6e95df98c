"""CHGNet against the chgnet package: graphs, energy, forces and stress of the published models, as it gave them."""

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

HERE = Path(__file__).parent
STRUCTURES = json.loads((HERE / "sevennet_reference.json").read_text())["structures"]
RECORDED = json.loads((HERE / "chgnet_reference.json").read_text())["predictions"]
QUICK = ("chgnet-0.3.0", "chgnet-0.2.0")
"""What runs every time: r2scan differs from 0.3.0 in its weights alone."""

NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RECORDED]


@pytest.fixture(scope="module", params=NAMES)
def predict(request, make_structure):
    """Graphs and predictions of one model in double precision, so that what is left is the other side's rounding."""
    try:
        potential, params = pretrained.load(request.param)
    except ModelError as error:
        pytest.skip(f"no weights: {error}")
    params = trees.cast(params, np.float64)
    # The package sees every structure as periodic.
    given = {name: make_structure(Atoms(**(atoms | {"pbc": True}))) for name, atoms in STRUCTURES.items()}
    layout = systems.plan_layout(list(given.values()), potential.graph)

    @jax.jit
    def apply(positions, system):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        return graph, potential.apply(params, positions, system, graph)

    def predict(name):
        graph, found = apply(*systems.prepare(given[name], potential.graph, layout))
        assert not graph.overflow
        return graph, found, RECORDED[request.param][name]

    return predict


@pytest.mark.parametrize("name", STRUCTURES)
def test_graph_energy_forces_and_stress(predict, name):
    graph, found, expected = predict(name)
    assert int(graph.mask.sum()) == expected["edges"]
    assert int(graph.angle_mask.sum()) == expected["angles"]
    # Single precision there: a thousand eV have two roundings of 1e-4 eV, of the sum and of its division by atoms.
    rounding = 2 * abs(expected["energy"]) * float(np.finfo(np.float32).eps)
    assert abs(float(found.energy) - expected["energy"]) <= max(1e-4, rounding)
    np.testing.assert_allclose(found.forces[: len(expected["forces"])], expected["forces"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.stress, expected["stress"], rtol=0, atol=1e-5)
