"""Predictions of the chgnet package for a checkpoint."""

import importlib.metadata
import json
import sys

GPA = 160.21766208
"""GPa per eV/angstrom^3; on its own here, because this file runs without its package."""


def main() -> None:
    """Answer one question."""
    from chgnet.model import CHGNet  # pyright: ignore[reportMissingImports]
    from pymatgen.core import Structure

    question = json.load(sys.stdin)
    model = CHGNet.from_file(question["file"])
    predictions = {}
    for name, given in question["structures"].items():
        structure = Structure(given["cell"], given["numbers"], given["positions"], coords_are_cartesian=True)
        found = model.predict_structure(structure, task="efs")
        predictions[name] = {
            "energy": float(found["e"]) * len(structure),
            "forces": found["f"].tolist(),
            "stress": (found["s"] / GPA).tolist(),
        }
    version = importlib.metadata.version("chgnet")
    json.dump({"package": f"chgnet {version}", "predictions": predictions}, sys.stdout)


if __name__ == "__main__":
    main()
