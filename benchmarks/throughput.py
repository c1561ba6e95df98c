"""How many structures a minute: relaxations of a mixed set, next to ASE with the chgnet package.

``python -m benchmarks.throughput``. Both use FIRE with ASE's settings and the same tolerance, so both make the same
steps. They take turns in one run, part by part of the set: read the ratio, and not the times, which belong to the
machine of that day.
"""

import dataclasses
import importlib.metadata
import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

# Before jax is imported: it logs pages of hints otherwise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tyro
from ase import Atoms

from bptt_relax import batches, datasets, io, potentials, relax
from bptt_relax.relax import Theta
from bptt_relax.systems import Structure

MODEL = "chgnet-0.3.0"
PRESETS = {"ci": 8, "laptop": 24, "full": 100}
OURS, ASE = "bptt_relax", "ASE + chgnet"


@dataclasses.dataclass(frozen=True)
class Options:
    """Relax a mixed set of structures with CHGNet, with this package and with ASE + chgnet, in turns.

    Attributes:
        preset: 8, 24 or 100 structures; a few minutes, a quarter of an hour, an hour on two free cores.
        fmax: converged when no force exceeds this, eV/angstrom.
        steps: largest number of steps.
        parts: pieces of the set between which the two take turns.
        workers: structures that this package relaxes at the same time; one per core when not given.
        out: also write the numbers to this JSON file.
    """

    preset: Literal["ci", "laptop", "full"] = "laptop"
    fmax: float = 0.05
    steps: int = 200
    parts: int = 4
    workers: int | None = None
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None


class Ended(NamedTuple):
    """Where one relaxation ended.

    Attributes:
        energy: eV.
        steps: made.
        converged: or out of steps.
    """

    energy: float
    steps: int
    converged: bool


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


class Ours:
    """This package: one program per bucket, compiled before the clock of the relaxations starts."""

    def __init__(self, given: Sequence[Structure], options: Options):
        potential, params = potentials.load(MODEL)
        rule = relax.fire(largest_time_step=1.0)
        relaxation = relax.relaxation(potential, rule, force_tolerance=options.fmax)
        self._run = batches.relax_many(relaxation, potential.graph, options.steps, workers=options.workers)
        self._theta = Theta(params, rule.hyper)
        self._given = given
        self._plan = batches.plan_buckets(given, potential.graph)
        self.plan = batches.describe(self._plan)

    def compile(self) -> None:
        """Relax the smallest structure of each bucket, which compiles its program."""
        self.relax([bucket.members[-1] for bucket in self._plan])

    def relax(self, indices: Sequence[int]) -> dict[int, Ended]:
        """Relax some of the structures, in the buckets planned for all."""
        place = {index: k for k, index in enumerate(indices)}
        buckets = [
            bucket._replace(members=members)
            for bucket in self._plan
            if (members := tuple(place[index] for index in bucket.members if index in place))
        ]
        ends = self._run(self._theta, [self._given[index] for index in indices], buckets=buckets)
        return {indices[e.index]: Ended(e.energy, e.steps, e.converged) for e in ends}


class AseChgnet:
    """What is used today: ASE's FIRE on the chgnet package's calculator, structure after structure."""

    def __init__(self, given: Sequence[Structure], options: Options):
        from chgnet.model import CHGNet, CHGNetCalculator

        model = CHGNet.load(model_name=MODEL.removeprefix("chgnet-"), verbose=False)
        self._calculator = CHGNetCalculator(model)
        self._given, self._options = given, options

    def relax(self, indices: Sequence[int]) -> dict[int, Ended]:
        """Relax some of the structures."""
        from ase.optimize import FIRE

        found = {}
        for index in indices:
            atoms: Atoms = io.to_atoms(self._given[index])
            atoms.calc = self._calculator
            optimizer = FIRE(atoms, logfile=None)
            converged = optimizer.run(fmax=self._options.fmax, steps=self._options.steps)
            energy = float(np.asarray(atoms.get_potential_energy()))
            found[index] = Ended(energy, optimizer.nsteps, bool(converged))
        return found


def timed(work) -> tuple[dict, Spent]:
    """What the work returned, and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, Spent(time.perf_counter() - wall, time.process_time() - cpu)


def torch_sim() -> str:
    """What can be said about torch-sim here."""
    if importlib.util.find_spec("torch_sim") is None:
        return "torch-sim: not installed (pip install torch-sim-atomistic), left out"
    version = importlib.metadata.version("torch-sim-atomistic")
    if importlib.util.find_spec("torch_sim.models.chgnet") is None:
        return f"torch-sim {version}: has no CHGNet, left out"
    return f"torch-sim {version}: has a CHGNet that this benchmark does not know yet, left out"


def compare(options: Options, say) -> dict:
    """Relax the set with everything that is installed; numbers as JSON."""
    given = structures(PRESETS[options.preset])
    ours = Ours(given, options)
    say(ours.plan)
    found: dict[str, dict[int, Ended]] = {OURS: {}}
    spent: dict[str, list[Spent]] = {OURS: []}
    _, compiling = timed(lambda: ours.compile() or {})
    say(f"compiled in {compiling.wall:.0f} s, {compiling.cpu:.0f} s of all cores")
    contestants = {OURS: ours}
    if importlib.util.find_spec("chgnet") is None:
        say(f"{ASE}: not installed (pip install -e '.[bench]'), left out")
    else:
        contestants[ASE] = AseChgnet(given, options)
        found[ASE], spent[ASE] = {}, []
    say(torch_sim())
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
    result = {
        "model": MODEL,
        "structures": len(given),
        "atoms": sum(len(s.species) for s in given),
        "fmax": options.fmax,
        "compiling": compiling._asdict(),
        "torch_sim": torch_sim(),
        "spent": {name: took._asdict() for name, took in total.items()},
        "steps": {name: sum(end.steps for end in ends.values()) for name, ends in found.items()},
        "converged": {name: sum(end.converged for end in ends.values()) for name, ends in found.items()},
    }
    if ASE in found:
        ours, ase = total[OURS], total[ASE]
        result["ratio"] = {
            "wall": ase.wall / ours.wall,
            "wall_with_compiling": ase.wall / (ours.wall + compiling.wall),
            "cpu": ase.cpu / ours.cpu,
            "wall_by_part": [a.wall / o.wall for a, o in zip(spent[ASE], spent[OURS], strict=True)],
        }
        result["largest_energy_difference_per_atom"] = max(
            abs(found[OURS][k].energy - found[ASE][k].energy) / len(given[k].species) for k in found[ASE]
        )
    return result


def main(options: Options) -> int:
    """Measure, print, and write what was asked for."""
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {text}", file=sys.stderr, flush=True)

    result = compare(options, say)
    for name, took in result["spent"].items():
        minutes = took["wall"] / 60
        print(
            f"{name:<14} {result['structures'] / minutes:8.1f} structures/min  {result['steps'][name]:6d} steps  "
            f"{result['converged'][name]} of {result['structures']} converged  {took['cpu']:.0f} s of all cores"
        )
    if "ratio" in result:
        ratio = result["ratio"]
        print(
            f"{OURS} is {ratio['wall']:.2f} times as fast on the clock ({ratio['wall_with_compiling']:.2f} with "
            f"compiling), {ratio['cpu']:.2f} times in time of all cores; largest difference of energies "
            f"{1000 * result['largest_energy_difference_per_atom']:.3f} meV/atom"
        )
    print(result["torch_sim"])
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.throughput", description=Options.__doc__)))
