"""mlip's force fields through the adapter, against their own predictions."""

import jax
import numpy as np
import pytest

from bptt_relax import neighbors, systems
from bptt_relax.potentials.adapters import from_mlip

pytestmark = pytest.mark.parity
mlip = pytest.importorskip("mlip", reason="mlip is not installed: pip install 'bptt-relax[mlip]'")


@pytest.mark.parametrize("network", ["Nequip", "Mace", "Visnet"])
def test_energy_forces_and_stress_are_those_of_mlip(network, make_silicon, make_structure):
    from mlip import models
    from mlip.data import ChemicalSystem, DatasetInfo
    from mlip.graph import Graph
    from mlip.typing.properties import Properties

    sizes = {
        "Nequip": {"num_layers": 2, "target_irreps": "8x0e+4x1o+2x2e", "l_max": 2, "radial_mlp_hidden": [8]},
        "Mace": {
            "num_channels": 4,
            "correlation": 2,
            "num_layers": 2,
            "l_max": 2,
            "readout_irreps": ["4x0e", "0e"],
        },
        "Visnet": {"num_layers": 2, "num_channels": 8, "num_heads": 2},
    }
    info = DatasetInfo(
        atomic_energies_map={8: -1.0, 14: -2.0},
        graph_cutoff_angstrom=4.0,
        avg_num_neighbors=12.0,
        avg_r_min_angstrom=2.2,
    )
    kind = getattr(models, network)
    atoms = make_silicon(1)
    atoms.numbers[3] = 8
    # mlip is written for JAX's default settings.
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        wanted = Properties(energy=True, forces=True, stress=True)
        network = kind(kind.Config(**sizes[network]), info)
        force_field = models.ForceField.from_mlip_network(network, required_properties=wanted, seed=1)
        system = ChemicalSystem(
            atomic_numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=(True,) * 3
        )
        expected = force_field(Graph.from_chemical_system(system, 4.0))
        potential, params = from_mlip(force_field)
        layout = systems.plan_layout([make_structure(atoms)], potential.graph)._replace(num_atoms=9)
        positions, system = systems.prepare(make_structure(atoms), potential.graph, layout)
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        found = jax.jit(potential.apply)(params, positions, system, graph)
    assert potential.elements == (8, 14)
    np.testing.assert_allclose(found.energy, np.ravel(expected.energy)[0], atol=1e-4)
    np.testing.assert_allclose(
        found.forces[: len(atoms)], np.asarray(expected.forces)[: len(atoms)], atol=1e-4
    )
    np.testing.assert_allclose(found.stress, np.reshape(expected.stress, (-1, 3, 3))[0], atol=1e-5)
