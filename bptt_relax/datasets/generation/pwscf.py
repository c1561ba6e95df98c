"""One relaxation with pw.x of Quantum ESPRESSO: input, run, and every ionic step of the output."""

import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from ase import Atoms
from ase.io import read
from ase.io.espresso import write_espresso_in

from bptt_relax.datasets.generation.pseudopotentials import Pseudopotential
from bptt_relax.outcomes import InputError


class Level(NamedTuple):
    """How a relaxation is computed. The defaults are those of the bundled silicon defects.

    Attributes:
        cutoff: of the wave functions, Ry.
        kpoints: "P" for the one point (1/4, 1/4, 1/4), or a mesh with its shift, as "2 2 2 1 1 1".
        smearing: width of the Gaussian, Ry.
        mode: atoms alone, or atoms and cell.
        steps: at most this many ionic steps.
    """

    cutoff: float = 24.0
    kpoints: str = "P"
    smearing: float = 0.005
    mode: Literal["relax", "vc-relax"] = "relax"
    steps: int = 60

    def describe(self) -> str:
        """One word for the data: functional, cutoff, k points."""
        return f"PBE-{self.cutoff:g}Ry-k{self.kpoints.replace(' ', '')}"


class Computed(NamedTuple):
    """What came out.

    Attributes:
        frames: ionic steps with energy, forces and stress.
        converged: pw.x says so.
        output: everything pw.x wrote.
    """

    frames: list[Atoms]
    converged: bool
    output: str


def program() -> str:
    """Where pw.x is.

    Raises:
        InputError: it is not installed.
    """
    found = shutil.which("pw.x")
    if found is None:
        raise InputError(
            "pw.x of Quantum ESPRESSO was not found: install it (Debian and Ubuntu: apt install quantum-espresso; "
            "conda: conda install -c conda-forge qe) so that `pw.x` is on the PATH"
        )
    return found


def k_points(kpoints: str) -> str:
    """The K_POINTS card.

    Raises:
        InputError: neither "P" nor six numbers.
    """
    if kpoints == "P":
        return "K_POINTS crystal\n1\n0.25 0.25 0.25 1.0\n"
    numbers = kpoints.split()
    if len(numbers) != 6 or not all(n.isdigit() for n in numbers) or "0" in numbers[:3]:
        raise InputError(f"k points {kpoints!r}: give P, or mesh and shift as '2 2 2 1 1 1'")
    return f"K_POINTS automatic\n{' '.join(numbers)}\n"


def input_text(atoms: Atoms, level: Level, pseudos: Mapping[str, Pseudopotential], scratch: Path) -> str:
    """The input of pw.x.

    Args:
        atoms: to relax.
        level: how.
        pseudos: of every element.
        scratch: where pw.x may write.
    """
    symbols = atoms.get_chemical_symbols()
    electrons = sum(pseudos[s].valence for s in symbols)
    hard = any(not pseudos[s].norm_conserving for s in symbols)
    settings = {
        "control": {
            "calculation": level.mode,
            "prefix": "x",
            "outdir": str(scratch),
            "pseudo_dir": str(next(iter(pseudos.values())).path.parent.resolve()),
            "disk_io": "none",
            "tprnfor": True,
            "tstress": True,
            "nstep": level.steps,
            "forc_conv_thr": 1e-3,
            "etot_conv_thr": 2e-4,
        },
        "system": {
            "ecutwfc": level.cutoff,
            "ecutrho": level.cutoff * (6 if hard else 4),
            # The starts have no symmetry, and one that appears on the way would only change the k points.
            "nosym": True,
            "occupations": "smearing",
            "smearing": "gauss",
            "degauss": level.smearing,
            "nbnd": int(electrons // 2 + max(4, electrons // 20)),
        },
        "electrons": {"conv_thr": 1e-7, "mixing_beta": 0.6, "electron_maxstep": 80},
        "ions": {"ion_dynamics": "bfgs", "upscale": 20, "trust_radius_max": 1.2, "trust_radius_ini": 0.5},
    }
    if level.mode == "vc-relax":
        settings["cell"] = {"cell_dynamics": "bfgs", "press_conv_thr": 0.3}
    text = io.StringIO()
    names = {s: pseudos[s].path.name for s in dict.fromkeys(symbols)}
    write_espresso_in(text, atoms, input_data=settings, pseudopotentials=names, kpts=None)
    # ASE knows meshes and band paths, not a list of special points.
    return text.getvalue().replace("K_POINTS gamma\n", k_points(level.kpoints))


def relax(
    atoms: Atoms,
    level: Level,
    pseudos: Mapping[str, Pseudopotential],
    *,
    limit: float = 5400.0,
    threads: int = 1,
) -> Computed:
    """Run pw.x.

    Args:
        atoms: to relax.
        level: how.
        pseudos: of every element.
        limit: seconds after which it is stopped; what it has by then is returned, not converged.
        threads: of OpenMP and BLAS.

    Raises:
        InputError: pw.x is not installed.
    """
    command = program()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory(prefix="pwscf-") as folder:
        scratch = Path(folder)
        (scratch / "x.in").write_text(input_text(atoms, level, pseudos, scratch))
        output = scratch / "x.out"
        with output.open("w") as file:
            process = subprocess.Popen(
                [command, "-in", "x.in"], stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=scratch
            )
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                pass
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        text = output.read_text(errors="replace")
        return Computed(*read_output(output, level), text)


def read_output(path: Path, level: Level) -> tuple[list[Atoms], bool]:
    """Ionic steps with energy and forces, and whether the relaxation converged.

    Args:
        path: of the output of pw.x.
        level: how it was made.
    """
    text = path.read_text(errors="replace")
    converged = "bfgs converged" in text.lower() or (
        "End of BFGS Geometry Optimization" in text and "bfgs failed" not in text
    )
    try:
        frames = read(path, index=":", format="espresso-out")
    except Exception:
        return [], False
    frames = frames if isinstance(frames, list) else [frames]
    labelled = [f for f in frames if f.calc is not None and {"energy", "forces"} <= set(f.calc.results)]
    if level.mode == "vc-relax" and converged and len(labelled) > 1:
        labelled.pop()  # computed again with the plane waves of the final cell: another energy surface
    return labelled, converged


def largest_force(atoms: Atoms) -> float:
    """Largest force on an atom, eV/angstrom."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())
