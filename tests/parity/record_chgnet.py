"""Write chgnet_reference.json: what the chgnet package says; run it where chgnet is installed.

python tests/parity/record_chgnet.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms
from chgnet.model import CHGNet
from pymatgen.io.ase import AseAtomsAdaptor

HERE = Path(__file__).parent
MODELS = {"chgnet-0.3.0": "0.3.0", "chgnet-0.2.0": "0.2.0", "chgnet-r2scan": "r2scan"}
GPA = 160.21766208

structures = json.loads((HERE / "sevennet_reference.json").read_text())["structures"]
predictions: dict[str, dict] = {}
for name, published in MODELS.items():
    model = CHGNet.load(model_name=published, use_device="cpu", verbose=False)
    predictions[name] = {}
    for label, given in structures.items():
        structure = AseAtomsAdaptor.get_structure(Atoms(**(given | {"pbc": True})))
        graph = model.graph_converter(structure)
        said = model.predict_structure(structure, task="efs")
        predictions[name][label] = {
            "energy": float(said["e"]) * len(structure),
            "forces": np.round(said["f"].astype(float), 6).tolist(),
            "stress": np.round(said["s"].astype(float) / GPA, 8).tolist(),
            "edges": len(graph.atom_graph),
            "angles": len(graph.bond_graph),
        }
text = {
    "made_with": f"chgnet {version('chgnet')} on torch {version('torch')} (CPU, single precision)",
    "units": "eV, angstrom, eV/angstrom^3 with ASE's sign; edges within 6 angstrom, one for each direction; angles are "
    "ordered pairs of edges within 3 angstrom at one atom",
    "predictions": predictions,
}
(HERE / "chgnet_reference.json").write_text(json.dumps(text) + "\n")
