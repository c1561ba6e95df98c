"""How far an exported file is from us in the package it was written for: energy, forces, stress of three structures."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ase import Atoms
from ase.build import bulk

from bptt_relax import neighbors, systems
from bptt_relax._types import Params
from bptt_relax.models._contract import Original
from bptt_relax.outcomes import ModelError
from bptt_relax.potentials import Potential

TOLERANCE = {"energy": 1e-4, "forces": 1e-4, "stress": 1e-5}
"""eV, eV/angstrom, eV/angstrom^3: what is left of the other package's single precision."""


class Parity(NamedTuple):
    """Largest differences between our predictions and those of another package.

    Attributes:
        package: its name and version.
        energy: eV.
        forces: eV/angstrom.
        stress: eV/angstrom^3.
        passed: all within `TOLERANCE`.
    """

    package: str
    energy: float
    forces: float
    stress: float
    passed: bool


def structures() -> dict[str, Atoms]:
    """What is compared: a metal of one atom, a salt and a defect, away from their minima."""
    rng = np.random.default_rng(0)
    salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    vacancy = bulk("Si", cubic=True, a=5.45)
    del vacancy[0]
    for atoms in (salt, vacancy):
        atoms.positions += 0.08 * rng.normal(size=atoms.positions.shape)
    return {"copper": bulk("Cu", a=3.6), "sodium chloride": salt, "silicon vacancy": vacancy}


def predictions(potential: Potential, params: Params) -> dict[str, dict[str, Any]]:
    """Our energy, forces and stress of each structure, as plain numbers."""
    prepared = {}
    for name, atoms in structures().items():
        n = len(atoms)
        prepared[name] = systems.Structure(
            name=name,
            species=atoms.numbers,
            masses=atoms.get_masses(),
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            free=np.ones((n, 3), bool),
        )
    # One padded size, one compilation.
    layout = systems.plan_layout(list(prepared.values()), potential.graph)

    @jax.jit
    def apply(params, positions, system):
        graph = neighbors.refresh(system.candidates, positions, system.cell)
        return potential.apply(params, positions, system, graph)

    found = {}
    for name, structure in prepared.items():
        answer = apply(params, *systems.prepare(structure, potential.graph, layout))
        stress = np.zeros((3, 3)) if answer.stress is None else np.asarray(answer.stress)
        found[name] = {
            "energy": np.nan if answer.energy is None else float(answer.energy),
            "forces": np.asarray(answer.forces)[: len(structure.species)].tolist(),
            "stress": stress.tolist(),
        }
    return found


def interpreter(original: Original) -> Path | None:
    """The Python to ask when none is named: the present one where it has the package."""
    return Path(sys.executable) if importlib.util.find_spec(original.package) else None


def ask(original: Original, python: str | Path, file: Path, modality: str = "") -> dict[str, Any]:
    """Predictions of another package for a file of weights.

    Args:
        original: the package.
        python: the interpreter that has it.
        file: in that package's format.
        modality: see `registry.Model`.

    Raises:
        ModelError: that program failed.
    """
    given = {
        name: {
            "numbers": a.numbers.tolist(),
            "cell": a.cell.array.tolist(),
            "positions": a.positions.tolist(),
        }
        for name, a in structures().items()
    }
    question = json.dumps({"file": str(file.resolve()), "structures": given, "modality": modality})
    try:
        done = subprocess.run(
            [str(python), "-I", str(original.program)],
            input=question,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        # Whatever the package prints comes before the answer.
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(
            f"{original.package} could not be asked about {file} ({error}): check {python}"
        ) from error
    except (ValueError, IndexError) as error:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"{original.package} can't load {file} or predict with it: {last}") from error


def compare(ours: dict[str, dict[str, Any]], answer: dict[str, Any]) -> Parity:
    """Largest differences over all structures.

    Args:
        ours: from `predictions`.
        answer: from `ask`.
    """
    theirs = answer["predictions"]
    largest = {
        # NumPy's maximum keeps a NaN, Python's drops one that is not the first.
        key: float(np.max([np.max(np.abs(np.subtract(ours[name][key], theirs[name][key]))) for name in ours]))
        for key in TOLERANCE
    }
    passed = all(largest[key] <= bound for key, bound in TOLERANCE.items())
    return Parity(answer["package"], passed=passed, **largest)
