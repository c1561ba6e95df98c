"""Predictions of the nequix package for a .nqx file."""

import importlib.metadata
import json
import os
import sys


def main() -> None:
    """Answer one question."""
    # It looks for torch kernels otherwise, whether or not they are wanted.
    os.environ.setdefault("OEQ_NOTORCH", "1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from ase import Atoms
    from nequix.calculator import NequixCalculator  # pyright: ignore[reportMissingImports]

    question = json.load(sys.stdin)
    calculator = NequixCalculator(model_path=question["file"], use_kernel=False)
    predictions = {}
    for name, given in question["structures"].items():
        atoms = Atoms(**given, pbc=True, calculator=calculator)
        predictions[name] = {
            "energy": float(atoms.get_potential_energy()),
            "forces": atoms.get_forces().tolist(),
            "stress": atoms.get_stress(voigt=False).tolist(),
        }
    version = importlib.metadata.version("nequix")
    json.dump({"package": f"nequix {version}", "predictions": predictions}, sys.stdout)


if __name__ == "__main__":
    main()
