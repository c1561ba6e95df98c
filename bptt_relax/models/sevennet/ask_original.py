"""Predictions of the sevenn package for a checkpoint, by its calculator for ASE."""

import importlib.metadata
import json
import sys


def main() -> None:
    """Answer one question."""
    from ase import Atoms
    from sevenn.calculator import SevenNetCalculator  # pyright: ignore[reportMissingImports]

    question = json.load(sys.stdin)
    modality = {"modal": question["modality"]} if question.get("modality") else {}
    calculator = SevenNetCalculator(question["file"], device="cpu", **modality)
    predictions = {}
    for name, given in question["structures"].items():
        atoms = Atoms(**{"pbc": True, **given}, calculator=calculator)
        predictions[name] = {
            "energy": float(atoms.get_potential_energy()),
            "forces": atoms.get_forces().tolist(),
            "stress": atoms.get_stress(voigt=False).tolist(),
        }
    version = importlib.metadata.version("sevenn")
    json.dump({"package": f"sevenn {version}", "predictions": predictions}, sys.stdout)


if __name__ == "__main__":
    main()
