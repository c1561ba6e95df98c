"""What happens to one structure on the host: it is prepared, its neighbors are rebuilt, and its end is recorded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from bptt_relax import neighbors, systems
from bptt_relax._types import Positions
from bptt_relax.batches.final import Final, Path
from bptt_relax.batches.layouts import Layouts
from bptt_relax.batches.settling import Progress, Visits
from bptt_relax.neighbors import GraphSpec
from bptt_relax.outcomes import Outcome
from bptt_relax.relax import Relaxation, Theta, set_running
from bptt_relax.systems import Layout, Structure, System

MAX_REBUILDS = 100
"""A structure whose neighbors were rebuilt this often is given up: it is falling apart."""

COLLAPSED = 0.1
"""A cell with less than this share of its volume is given up: its neighbors would fill the memory."""


StartFn = Callable[[Theta, Positions, System], Progress]


@dataclass
class Job:
    """One structure under way.

    Attributes:
        index: among all structures.
        layout: it is padded to.
        progress: on the device.
        system: on the device.
        rebuilds: so far.
        steps_at_rebuild: steps made when the neighbors were last rebuilt.
        visits: pieces of its path, on the host.
    """

    index: int
    layout: Layout
    progress: Progress
    system: System
    rebuilds: int = 0
    steps_at_rebuild: int = -1
    visits: list = field(default_factory=list)


class Host:
    """Prepares structures, rebuilds their neighbors and records where they end.

    Args:
        relaxation: how they move.
        start: `settling.begin` of it, jitted.
        theta: parameters.
        structures: all of them.
        spec: the graph the potential asks for.
        skin: angstrom.
        layouts: in use.
    """

    def __init__(
        self,
        relaxation: Relaxation,
        start: StartFn,
        theta: Theta,
        structures: Sequence[Structure],
        spec: GraphSpec,
        skin: float,
        layouts: Layouts,
    ):
        self.theta = theta
        self._structures = structures
        self._spec, self._skin, self._layouts = spec, skin, layouts
        self._moves_cell = relaxation.moves_cell
        self._start = start

    def open(self, index: int, layout: Layout) -> Job:
        """Prepare a structure."""
        positions, system = systems.prepare(self._structures[index], self._spec, layout, skin=self._skin)
        return Job(index, layout, self._start(self.theta, positions, system), system)

    def take(self, job: Job, progress: Progress, visits: Visits) -> bool:
        """Record what a call of the program made of a job; rebuilds its neighbors where they are stale.

        Returns:
            Whether the job is over. If not, its layout may have grown.
        """
        job.progress = progress
        self.keep(job, visits)
        if bool(progress.finished):
            return True
        return int(progress.state.outcome) == Outcome.STALE_NEIGHBORS and not self._rebuild(job)

    def keep(self, job: Job, visits: Visits) -> None:
        """Add to the path of a job."""
        if jax.tree.leaves(visits.kept):
            count = int(visits.count)
            job.visits.append(jax.tree.map(lambda rows: np.asarray(rows)[:count], visits.kept))

    def close(self, job: Job) -> Final:
        """Where the job ended."""
        structure, (state, info, _) = self._structures[job.index], jax.device_get(job.progress)
        n = len(structure.species)
        cell = np.asarray(state.cell, float) if self._moves_cell else structure.cell
        moved = np.asarray(state.positions, float)[:n]
        # What is held stays to the last digit, also where the device computes in single precision.
        held = ~structure.free if not self._moves_cell else np.zeros_like(structure.free)
        positions = np.where(held, structure.positions, moved)
        usable = int(state.outcome) < Outcome.STALE_NEIGHBORS
        return Final(
            index=job.index,
            structure=structure._replace(positions=positions, cell=cell),
            energy=float(info.energy) if usable else float("nan"),
            max_force=float(info.max_force) if usable else float("nan"),
            max_stress=None
            if info.max_stress is None
            else float(info.max_stress)
            if usable
            else float("nan"),
            steps=int(state.steps),
            outcome=Outcome(int(state.outcome)),
            rebuilds=job.rebuilds,
            path=_path(job, n),
        )

    def _rebuild(self, job: Job) -> bool:
        """Rebuild the neighbors where a job stands. False: it can't go on."""
        state, system = job.progress.state, job.system
        positions, cell = np.asarray(state.positions, np.float64), np.asarray(state.cell, np.float64)
        stuck = int(state.steps) == job.steps_at_rebuild
        volume, started = np.linalg.det(cell), np.linalg.det(self._structures[job.index].cell)
        if stuck or job.rebuilds == MAX_REBUILDS or not abs(volume) > COLLAPSED * abs(started):
            return False
        mask = np.asarray(system.mask)
        needed = neighbors.grow(
            job.layout.capacity, positions[mask], cell, np.asarray(system.pbc), self._spec, self._skin
        )
        job.layout = self._layouts.holding(job.layout.num_atoms, needed)
        job.system = systems.with_neighbors(
            positions,
            system._replace(cell=state.cell),
            self._spec,
            skin=self._skin,
            capacity=job.layout.capacity,
        )
        job.progress = job.progress._replace(state=set_running(state))
        job.rebuilds += 1
        job.steps_at_rebuild = int(state.steps)
        return True


def _path(job: Job, n: int) -> Path | None:
    if not job.visits:
        return None
    positions, cells, energies, forces = (np.concatenate(pieces) for pieces in zip(*job.visits, strict=True))
    return Path(positions[:, :n], cells, energies, forces)
