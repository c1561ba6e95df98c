"""Single points with forces, from files to padded frames on the device."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bptt_relax import io, systems, trees
from bptt_relax.io.atoms import labels, possible_forces
from bptt_relax.neighbors import GraphSpec
from bptt_relax.outcomes import InputError
from bptt_relax.systems import Structure
from bptt_relax.training import LabelledFrame

WHERE = (
    "the bundled models were trained on the silicon part of mlearn (Zuo et al., doi:10.1021/acs.jpca.9b08723; "
    "repository materialsvirtuallab/mlearn, files data/Si/training.json and test.json, BSD-3-Clause); "
    "experiments/pretrain/README.md has the ten lines that make files for --data and --test of them"
)


class SinglePoint(NamedTuple):
    """One structure with the forces of the reference method.

    Attributes:
        structure: on the host, all atoms free.
        forces: (n, 3) eV/angstrom.
        group: what its file calls its kind (``config_type``), for results.
    """

    structure: Structure
    forces: np.ndarray
    group: str


def read(path: Path | None, option: str, elements: tuple[int, ...] = ()) -> list[SinglePoint]:
    """Every frame of a file.

    Args:
        path: any file ASE reads.
        option: of the command line that names it.
        elements: atomic numbers that the model covers; empty for any.

    Raises:
        InputError: no file, a structure that can't be used, or one without forces; lists all of them.
    """
    if path is None:
        raise InputError(f"{option} is missing: {WHERE}")
    if not path.is_file():
        raise InputError(f"{option} {path}: no such file; {WHERE}")
    inspection = io.inspect_structures([path], elements=elements)
    if inspection.rejected:
        raise InputError(io.describe(inspection.rejected, f"cannot use {option} {path}"))
    points, without = [], []
    for found in inspection.found:
        forces = labels(found.atoms).forces
        if forces is None or not np.all(np.isfinite(forces)):
            without.append(found)
            continue
        structure = found.structure._replace(free=np.ones_like(found.structure.free))
        points.append(SinglePoint(structure, forces, str(found.atoms.info.get("config_type", "all"))))
    if without:
        keys = possible_forces(without[0].atoms)
        seen = f"; arrays seen: {', '.join(keys)}" if keys else ""
        raise InputError(
            f"{option} {path}: {len(without)} of {len(inspection.found)} structures have no forces, the first is "
            f"{without[0].structure.name}{seen}"
        )
    return points


def digest(points: list[SinglePoint]) -> str:
    """A sha256 of species, cells, positions and forces: two runs with the same one had the same data."""
    found = hashlib.sha256()
    for point in points:
        s = point.structure
        for values in (s.species, s.cell, s.positions, point.forces):
            found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def prepare(points: list[SinglePoint], spec: GraphSpec) -> list[LabelledFrame]:
    """Frames for a potential, all of one layout, in numpy.

    Args:
        points: what to prepare.
        spec: graph the potential asks for.
    """
    # Nothing moves, so that no skin is needed.
    layout = systems.plan_layout([point.structure for point in points], spec, skin=0.0)
    found = []
    for point in points:
        positions, system = trees.on_host(systems.prepare(point.structure, spec, layout, skin=0.0))
        forces = np.zeros_like(positions)
        forces[: len(point.forces)] = point.forces
        found.append(LabelledFrame(positions, forces, system))
    return found


def spread(values: list[np.ndarray]) -> float:
    """Standard deviation around zero over all components of all rows."""
    return float(np.sqrt(np.mean(np.concatenate(values) ** 2)))
