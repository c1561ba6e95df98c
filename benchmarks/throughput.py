"""How many structures a minute: relaxations of a mixed set, next to ASE and torch-sim with the chgnet package.

``python -m benchmarks.throughput``. All use FIRE with ASE's settings and the same tolerance, so all make the same
steps. They take turns in one run, part by part of the set: read the ratio, and not the times, which belong to the
machine of that day.
"""

import dataclasses
import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

# Before jax is imported: it logs pages of hints otherwise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tyro

from benchmarks.relaxers.contract import MODEL, Ended, Relaxer, Task
from benchmarks.relaxers.ours import Ours
from bptt_relax import datasets, io
from bptt_relax.report.environment import environment
from bptt_relax.systems import Structure

PRESETS = {"ci": 8, "laptop": 24, "full": 100}
OURS, ASE, TORCH_SIM = "bptt_relax", "ASE + chgnet", "torch-sim + chgnet"


@dataclasses.dataclass(frozen=True)
class Options:
    """Relax a mixed set of structures with CHGNet, with this package, ASE + chgnet and torch-sim + chgnet, in turns.

    Attributes:
        preset: 8, 24 or 100 structures; a few minutes, a quarter of an hour, an hour on two free cores.
        fmax: converged when no force exceeds this, eV/angstrom.
        steps: largest number of steps.
        parts: pieces of the set between which they take turns.
        workers: structures that this package relaxes at the same time; one per core when not given.
        out: also write the numbers to this JSON file.
    """

    preset: Literal["ci", "laptop", "full"] = "laptop"
    fmax: float = 0.05
    steps: int = 200
    parts: int = 4
    workers: int | None = None
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None


class Spent(NamedTuple):
    """Time that something took.

    Attributes:
        wall: seconds on the clock.
        cpu: seconds of all cores.
    """

    wall: float
    cpu: float


def structures(count: int, seed: int = 0) -> list[Structure]:
    """Starts of bundled defect relaxations, crystals and their supercells, in turn; rattled where repeated.

    Args:
        count: how many.
        seed: of the rattling.
    """
    defects = [r.initial for r in datasets.load("silicon-defects").relaxations]
    crystals = [r.initial for r in datasets.load("crystals").relaxations]
    rng = np.random.default_rng(seed)
    kinds = itertools.cycle(
        [
            lambda k: defects[k % len(defects)],
            lambda k: _repeated(crystals[k % len(crystals)], (1, 1, 1)),
            lambda k: _repeated(crystals[k % len(crystals)], (2, 2, 1 + k % 2)),
            lambda k: _repeated(crystals[k % len(crystals)], (1, 2, 1)),
        ]
    )
    chosen = [next(kinds)(k) for k in range(count)]
    # Crystals stand at or near their minimum.
    return [
        s._replace(name=f"{k}", positions=s.positions + 0.08 * rng.normal(size=s.positions.shape))
        for k, s in enumerate(chosen)
    ]


def _repeated(structure: Structure, repeat: tuple[int, int, int]) -> Structure:
    return io.to_structure(io.to_atoms(structure).repeat(repeat), structure.name)


def timed(work) -> tuple[dict, Spent]:
    """What the work returned, and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, Spent(time.perf_counter() - wall, time.process_time() - cpu)


def missing(*modules: str) -> str:
    """Which of these packages are not installed, and how to get them; empty where none is missing."""
    wanted = {"chgnet": "-e '.[bench]'", "torch_sim": "torch-sim-atomistic"}
    lacking = [name for name in modules if importlib.util.find_spec(name) is None]
    return ", ".join(f"{name} is not installed (pip install {wanted[name]})" for name in lacking)


def peers(given: Sequence[Structure], task: Task, say: Callable[[str], None]) -> dict[str, Relaxer]:
    """Every other contestant that is installed."""
    found: dict[str, Relaxer] = {}
    for name, modules in ((ASE, ("chgnet",)), (TORCH_SIM, ("chgnet", "torch_sim"))):
        if lacking := missing(*modules):
            say(f"{name}: {lacking}, left out")
        elif name == ASE:
            from benchmarks.relaxers.ase_chgnet import AseChgnet

            found[name] = AseChgnet(given, task)
        else:
            from benchmarks.relaxers.torch_sim_chgnet import TorchSimChgnet

            found[name] = TorchSimChgnet(given, task)
    return found


def compare(options: Options, say: Callable[[str], None]) -> dict:
    """Relax the set with everything that is installed; numbers as JSON."""
    given = structures(PRESETS[options.preset])
    task = Task(options.fmax, options.steps, options.workers)
    ours = Ours(given, task)
    say(ours.plan)
    _, compiling = timed(lambda: ours.compile() or {})
    say(f"compiled in {compiling.wall:.0f} s, {compiling.cpu:.0f} s of all cores")
    contestants: dict[str, Relaxer] = {OURS: ours, **peers(given, task, say)}
    found: dict[str, dict[int, Ended]] = {name: {} for name in contestants}
    spent: dict[str, list[Spent]] = {name: [] for name in contestants}
    for part in np.array_split(np.random.default_rng(1).permutation(len(given)), options.parts):
        for name, contestant in contestants.items():
            ended, took = timed(lambda c=contestant, part=part: c.relax([int(k) for k in part]))
            found[name] |= ended
            spent[name].append(took)
            say(f"{name}: {len(part)} structures in {took.wall:.1f} s, {took.cpu:.1f} s of all cores")
    return _summary(options, given, found, spent, compiling)


def _summary(options: Options, given, found, spent, compiling: Spent) -> dict:
    total = {
        name: Spent(*(sum(column) for column in zip(*times, strict=True))) for name, times in spent.items()
    }
    ours = total[OURS]
    return {
        "model": MODEL,
        "structures": len(given),
        "atoms": sum(len(s.species) for s in given),
        "fmax": options.fmax,
        "compiling": compiling._asdict(),
        "environment": environment(),
        "spent": {name: took._asdict() for name, took in total.items()},
        "steps": {name: sum(end.steps for end in ends.values()) for name, ends in found.items()},
        "converged": {name: sum(end.converged for end in ends.values()) for name, ends in found.items()},
        "against": {
            name: {
                "wall": theirs.wall / ours.wall,
                "wall_with_compiling": theirs.wall / (ours.wall + compiling.wall),
                "cpu": theirs.cpu / ours.cpu,
                "wall_by_part": [a.wall / o.wall for a, o in zip(spent[name], spent[OURS], strict=True)],
                "largest_energy_difference_per_atom": max(
                    abs(found[OURS][k].energy - end.energy) / len(given[k].species)
                    for k, end in found[name].items()
                ),
            }
            for name, theirs in total.items()
            if name != OURS
        },
    }


def main(options: Options) -> int:
    """Measure, print, and write what was asked for."""
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {text}", file=sys.stderr, flush=True)

    result = compare(options, say)
    for name, took in result["spent"].items():
        minutes = took["wall"] / 60
        print(
            f"{name:<18} {result['structures'] / minutes:8.1f} structures/min  {result['steps'][name]:6d} steps  "
            f"{result['converged'][name]} of {result['structures']} converged  {took['cpu']:.0f} s of all cores"
        )
    for name, ratio in result["against"].items():
        print(
            f"{ratio['wall']:.2f} times as fast as {name} on the clock ({ratio['wall_with_compiling']:.2f} with "
            f"compiling), {ratio['cpu']:.2f} times in time of all cores; largest difference of energies "
            f"{1000 * ratio['largest_energy_difference_per_atom']:.3f} meV/atom"
        )
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.throughput", description=Options.__doc__)))
