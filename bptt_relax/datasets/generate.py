"""Label your own defects: ``python -m bptt_relax.datasets.generate HOST --defects V_Si P_Si --pseudos DIR --out DIR``.

Every defect and seed is one relaxation with pw.x (Quantum ESPRESSO), kept as one extended XYZ file with all ionic
steps, which `io.read_relaxations`, ``bptt-relax check`` and ``bptt-relax finetune`` take. Killed at any moment it
loses the relaxation under way; started again it goes on; several processes may share a folder.
"""

import contextlib
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bptt_relax.outcomes import InputError, run_program, say


@dataclass(frozen=True)
class Generate:
    """Relax point defects of a host crystal with Quantum ESPRESSO, or repeat a bundled relaxation."""

    host: Annotated[Path | None, tyro.conf.Positional] = None
    """The host crystal: any structure file that ASE reads, at the lattice constant of this level of theory."""
    defects: tuple[str, ...] = ()
    """V_Si, P_Si, Al_i, O_bc_Si, B_split110_Si, complexes such as V_Si+P_Si, or bulk."""
    pseudos: Path = Path("pseudos")
    """Folder with one UPF file per element."""
    out: Path = Path("dft")
    """Folder for the results; finished relaxations found there are not done again."""
    supercell: tuple[int, ...] = (2, 2, 2)
    """How often the host is repeated along its lattice vectors (3 numbers), or any supercell matrix (9 numbers)."""
    seeds: int = 1
    """Starts per defect."""
    first_seed: int = 0
    """Number of the first start."""
    cutoff: float = 24.0
    """Of the wave functions, Ry."""
    kpoints: str = "2 2 2 1 1 1"
    """Mesh and shift, or P for the one point (1/4, 1/4, 1/4)."""
    smearing: float = 0.005
    """Width of the Gaussian, Ry."""
    mode: Literal["relax", "vc-relax"] = "relax"
    """Relax the atoms, or atoms and cell."""
    limit: float = 5400.0
    """Seconds after which one relaxation is given up."""
    threads: int = 1
    """Of pw.x."""
    repeat: str | None = None
    """Compute this bundled relaxation again, at its own level, and say how far apart the two end."""
    dry_run: bool = False
    """Write the starts to OUT/starts.extxyz and compute nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Parse, check everything, then compute. Returns the exit code: 1 where a relaxation failed.

    Raises:
        InputError: anything about the host, the defects, the pseudopotentials or the folder.
    """
    options = tyro.cli(
        Generate, prog="python -m bptt_relax.datasets.generate", description=__doc__, args=arguments
    )
    if options.repeat is not None:
        return _repeat(options, options.repeat)
    return _generate(options)


def _generate(options: Generate) -> int:
    from bptt_relax.datasets.generation import pseudopotentials, pwscf, starts

    host = _read_host(options)
    if not options.defects:
        raise InputError("name the defects to make with --defects, for example V_Si P_Si V_Si+P_Si")
    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: at least one start per defect")
    level = pwscf.Level(options.cutoff, options.kpoints, options.smearing, options.mode)
    pwscf.k_points(level.kpoints)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = {
        f"{host.symbols.get_chemical_formula()}_{defect.replace('+', '-')}_s{seed}": (defect, seed)
        for seed in seeds
        for defect in options.defects
    }
    drawn = {name: starts.draw(host, defect, seed) for name, (defect, seed) in jobs.items()}
    if options.dry_run:
        return _write_starts(options.out, drawn)
    elements = sorted({symbol for start in drawn.values() for symbol in start.atoms.get_chemical_symbols()})
    pseudos = pseudopotentials.find(options.pseudos, elements)
    pwscf.program()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for count, (name, (defect, seed)) in enumerate(jobs.items(), start=1):
        path = options.out / f"{name}.extxyz"
        if path.exists():
            say(f"{count}/{len(jobs)} {name}: there already")
            continue
        with _claimed(options.out / f"{name}.lock", name) as ours:
            if not ours:
                say(f"{count}/{len(jobs)} {name}: another process is at it")
                continue
            start = drawn[name]
            say(f"{count}/{len(jobs)} {name}: {len(start.atoms)} atoms")
            computed = pwscf.relax(start.atoms, level, pseudos, limit=options.limit, threads=options.threads)
            info = {"group": f"{defect}_s{seed}", "kind": defect, "config_type": defect, "seed": seed}
            info |= {"rattle": start.rattle, "breathe": start.breathe, "strain": start.strain}
            if not _keep(computed, level, path, name, info):
                failed.append(name)
    say(f"{len(jobs) - len(failed)} of {len(jobs)} relaxations in {options.out}")
    return 1 if failed else 0


def _read_host(options: Generate):
    import numpy as np
    from ase.build import make_supercell
    from ase.io import read

    if options.host is None:
        raise InputError("give the host crystal (a structure file), or --repeat NAME")
    try:
        host = read(options.host)
    except Exception as error:
        raise InputError(f"cannot read the host {options.host}: {error}") from error
    if isinstance(host, list) or not host.pbc.all():
        raise InputError(f"the host {options.host} must be one structure, periodic along all three axes")
    if len(options.supercell) not in (3, 9):
        raise InputError(f"--supercell takes 3 or 9 numbers, not {len(options.supercell)}")
    numbers = np.array(options.supercell)
    matrix = np.diag(numbers) if len(numbers) == 3 else numbers.reshape(3, 3)
    if round(np.linalg.det(matrix)) < 1:
        raise InputError(f"--supercell {' '.join(map(str, options.supercell))} is no right-handed supercell")
    supercell = make_supercell(host, matrix)
    supercell.wrap()
    supercell.calc = None
    return supercell


def _write_starts(out: Path, drawn: dict) -> int:
    from ase.io import write

    out.mkdir(parents=True, exist_ok=True)
    for name, start in drawn.items():
        start.atoms.info["job"] = name
    write(out / "starts.extxyz", [start.atoms for start in drawn.values()])
    say(f"{len(drawn)} starts in {out / 'starts.extxyz'}")
    return 0


def _keep(computed, level, path: Path, name: str, info: dict) -> bool:
    """Write what came out, complete or not at all; say how it went."""
    from ase.io import write

    from bptt_relax.datasets.generation import pwscf

    log = path.with_suffix(".log.gz")
    with gzip.open(log, "wt") as file:
        file.write(computed.output)
    if len(computed.frames) < 2:
        lines = [line.strip() for line in computed.output.splitlines() if line.strip(" %")]
        say(f"  failed: {lines[-1] if lines else 'no output'} (see {log})")
        return False
    for index, frame in enumerate(computed.frames):
        frame.info |= info | {
            "job": name,
            "frame": index,
            "nframes": len(computed.frames),
            "mode": level.mode,
        }
        frame.info |= {"converged": computed.converged, "dft": level.describe()}
        wanted = ("energy", "forces", "stress")
        frame.calc.results = {key: v for key, v in frame.calc.results.items() if key in wanted}
    partial = path.with_suffix(".part")
    write(partial, computed.frames, format="extxyz")
    partial.replace(path)
    force = pwscf.largest_force(computed.frames[-1])
    verdict = "converged" if computed.converged else "NOT converged"
    say(f"  {verdict}, {len(computed.frames)} steps, largest force {force:.3f} eV/A")
    return computed.converged


@contextlib.contextmanager
def _claimed(lock: Path, name: str) -> Iterator[bool]:
    """Whether this relaxation is ours to compute."""
    from bptt_relax import processes

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(processes.locked(lock, name))
        except InputError:
            yield False
        else:
            yield True


def _repeat(options: Generate, name: str) -> int:
    """Compute a bundled relaxation again and compare the ends."""
    import numpy as np

    from bptt_relax import io
    from bptt_relax.datasets import load
    from bptt_relax.datasets.generation import pseudopotentials, pwscf

    found = [r for data in ("silicon-defects", "crystals") for r in load(data).relaxations if r.name == name]
    if not found:
        raise InputError(f"no bundled relaxation {name}; for example p32_sub_P_s0")
    bundled = found[0]
    atoms = io.to_atoms(bundled.frames[0])
    level = level_of(str(bundled.info["dft"]), str(bundled.info["mode"]))
    pseudos = pseudopotentials.find(options.pseudos, sorted(set(atoms.get_chemical_symbols())))
    pwscf.program()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}-again.extxyz"
    if path.exists():
        raise InputError(f"{path} is there already; give another --out")
    say(f"{name}: {len(atoms)} atoms at {level.describe()}")
    computed = pwscf.relax(atoms, level, pseudos, limit=options.limit, threads=options.threads)
    if not _keep(computed, level, path, f"{name}-again", {"kind": bundled.kind, "group": bundled.group}):
        return 1
    end = computed.frames[-1]
    moved = end.positions - bundled.relaxed.positions
    moved -= np.rint(moved @ np.linalg.inv(end.cell.array)) @ end.cell.array
    moved -= moved.mean(axis=0)
    delta_q = float(np.sqrt(np.sum(bundled.relaxed.masses[:, None] * moved**2)))
    energy = end.get_potential_energy() - (np.nan if bundled.energies is None else bundled.energies[-1])
    furthest = np.linalg.norm(moved, axis=1).max()
    say(
        f"ends {delta_q:.4f} sqrt(u)*A from the bundled one (furthest atom {furthest:.4f} A), energy "
        f"{1000 * energy:+.2f} meV"
    )
    return 0


def level_of(described: str, mode: str):
    """The level of a bundled relaxation, from what its data say.

    Args:
        described: as in the bundled data, e.g. "QE6.7-PBE-24Ry-kP".
        mode: "relax" or "vc-relax".

    Raises:
        InputError: it says something else.
    """
    from bptt_relax.datasets.generation import pwscf

    found = re.fullmatch(r".*PBE-(?P<cutoff>[\d.]+)Ry-k(?P<k>P|\d{6})", described)
    if found is None or mode not in ("relax", "vc-relax"):
        raise InputError(f"cannot tell how {described} ({mode}) was computed")
    kpoints = found["k"] if found["k"] == "P" else " ".join(found["k"])
    return pwscf.Level(float(found["cutoff"]), kpoints, mode="vc-relax" if mode == "vc-relax" else "relax")


if __name__ == "__main__":
    run_program(main)
