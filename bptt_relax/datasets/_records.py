"""From stored frames to relaxations: naming, grouping and kinds of the bundled data."""

from collections.abc import Iterable

import numpy as np
from ase.data import atomic_masses

from bptt_relax.datasets import _extxyz
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError
from bptt_relax.systems import Structure

_NUMBERS = {"seed": int, "rattle": float, "breathe": float, "strain": float, "nframes": int}
_SAME_PHASE = {"Si_dia8": "Si_dia", "Ge_dia8": "Ge_dia", "SiC_3C8": "SiC_3C"}
"""Conventional cells of a phase that is there as a primitive cell, too."""


def by_job(frames: Iterable[_extxyz.Frame], source: str) -> dict[str, list[_extxyz.Frame]]:
    """Collect frames by the relaxation they belong to, in the order of their steps.

    Raises:
        InputError: a frame names no job, or steps of a job are missing or doubled.
    """
    jobs: dict[str, list[_extxyz.Frame]] = {}
    for frame in frames:
        if "job" not in frame.info:
            raise InputError(f"{source}: a frame has no `job` item, so it belongs to no relaxation")
        jobs.setdefault(frame.info["job"], []).append(frame)
    for job, steps in jobs.items():
        found = [int(step.info.get("frame", -1)) for step in steps]
        if found != list(range(int(steps[0].info.get("nframes", -1)))):
            raise InputError(
                f"{source}: relaxation {job} has steps {found[:3]}...{found[-1]} of "
                f"{steps[0].info.get('nframes')}; run the calculation again"
            )
    return jobs


def level_of(job: str) -> str:
    """How a relaxation was computed, from its name: p32, d32 or x."""
    return job.split("_")[0]


def kind_of(info: dict[str, str]) -> str:
    """The kind of defect, or the phase of a crystal whatever the number of atoms it was computed with."""
    kind = info["config_type"].removeprefix("crystal_")
    return _SAME_PHASE.get(kind, kind)


def to_relaxation(job: str, steps: list[_extxyz.Frame], source: str) -> Relaxation:
    """One relaxation from its stored steps.

    A defect is grouped by kind and seed, which names its random start whatever the level; a crystal by its
    phase, because every start of a phase ends at the same structure.

    Raises:
        InputError: an item is missing, the atoms change between steps, or a number is not finite.
    """
    where = f"{source}, relaxation {job}"
    info = steps[0].info
    species = steps[0].species
    if any(not np.array_equal(step.species, species) for step in steps):
        raise InputError(f"{where}: the atoms change between steps")
    masses, free = atomic_masses[species], np.ones((len(species), 3), bool)
    pbc = np.array([flag == "T" for flag in info.get("pbc", "T T T").split()])
    frames = tuple(
        Structure(
            job, species, masses, s.positions, _extxyz.numbers_of(s.info, "Lattice", (3, 3), where), pbc, free
        )
        for s in steps
    )
    forces = np.stack([s.forces for s in steps])
    energies = np.array([_extxyz.numbers_of(s.info, "energy", (), where) for s in steps])
    stresses = np.stack([_extxyz.numbers_of(s.info, "stress", (3, 3), where) for s in steps])
    positions = np.stack([s.positions for s in steps])
    for what, values in [
        ("position", positions),
        ("force", forces),
        ("energy", energies),
        ("stress", stresses),
    ]:
        if not np.all(np.isfinite(values)):
            raise InputError(
                f"{where}: a {what} is NaN or infinite at step {np.argwhere(~np.isfinite(values))[0][0]}"
            )
    kind = kind_of(info)
    level = level_of(job)
    kept = {key: make(info[key]) for key, make in _NUMBERS.items() if key in info}
    return Relaxation(
        name=job,
        group=kind if level == "x" else f"{kind}_s{info['seed']}",
        kind=kind,
        frames=frames,
        energies=energies,
        forces=forces,
        stresses=stresses,
        converged=info.get("converged") == "T",
        info={**kept, "level": level, "mode": info.get("mode"), "dft": info.get("dft"), "source": source},
    )
