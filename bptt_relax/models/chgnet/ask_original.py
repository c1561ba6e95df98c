"""Predictions of the chgnet package for a checkpoint, by its calculator for ASE."""

import importlib.metadata
import json
import sys


def main() -> None:
    """Answer one question."""
    from ase import Atoms
    from chgnet.model import CHGNet, CHGNetCalculator  # pyright: ignore[reportMissingImports]

    question = json.load(sys.stdin)
    calculator = CHGNetCalculator(CHGNet.from_file(question["file"]), use_device="cpu")
    predictions = {}
    for name, given in question["structures"].items():
        atoms = Atoms(
            given["numbers"], given["positions"], cell=given["cell"], pbc=True, calculator=calculator
        )
        predictions[name] = {
            "energy": float(atoms.get_potential_energy()),
            "forces": atoms.get_forces().tolist(),
            "stress": atoms.get_stress(voigt=False).tolist(),
        }
    version = importlib.metadata.version("chgnet")
    json.dump({"package": f"chgnet {version}", "predictions": predictions}, sys.stdout)


if __name__ == "__main__":
    main()
