"""Relax many structures in one call."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax

from bptt_relax.batches.buckets import Bucket, plan_buckets
from bptt_relax.batches.final import Final
from bptt_relax.batches.host import Host
from bptt_relax.batches.in_turn import relax_in_turn
from bptt_relax.batches.layouts import Layouts
from bptt_relax.batches.mapping import Mapping, choose_mapping
from bptt_relax.batches.settling import begin, nothing, settle, whole_path
from bptt_relax.batches.side_by_side import relax_side_by_side, slots_for
from bptt_relax.compilation import Programs
from bptt_relax.neighbors import GraphSpec
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import Structure

CHUNK_IN_TURN = 32
"""Evaluations between two checks of whether to stop."""

CHUNK_SIDE_BY_SIDE = 8
"""Evaluations before finished structures are replaced: longer wastes slots, shorter waits for the host."""


class RelaxMany:
    """Relaxes structures of any sizes, elements and cells, each exactly as it would be alone, without gradients.

    One program is compiled per bucket, and kept for the next call. No step is made for a structure that has
    converged; where neighbors become stale they are rebuilt on the host, and the relaxation goes on. A structure that
    fails says so in its outcome and changes nothing for the others.

    Args:
        relaxation: with the tolerances at which a structure counts as converged.
        spec: the graph the potential asks for (``potential.graph``).
        num_steps: largest number of steps of one structure.
        skin: of the neighbor lists, angstrom.
        keep_path: keep every configuration on the way (`Final.path`).
        mapping: "in_turn" or "side_by_side", as `over_structures`.
        workers: in turn: structures under way at once, each in a thread; the number of processors when not given.
        slots: side by side: structures in one program; by their size when not given.

    Raises:
        ValueError: ``num_steps``, ``workers`` or ``slots`` is not positive, or unknown mapping.
    """

    def __init__(
        self,
        relaxation: Relaxation,
        spec: GraphSpec,
        num_steps: int,
        *,
        skin: float = 1.0,
        keep_path: bool = False,
        mapping: Mapping | None = None,
        workers: int | None = None,
        slots: int | None = None,
    ):
        for name, value in (("num_steps", num_steps), ("workers", workers), ("slots", slots)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        record = whole_path if keep_path else nothing
        self._in_turn = choose_mapping(mapping) == "in_turn"
        one = settle(relaxation, num_steps, CHUNK_IN_TURN if self._in_turn else CHUNK_SIDE_BY_SIDE, record)
        self._programs = Programs(
            one if self._in_turn else jax.vmap(one, in_axes=(None, 0, 0)), several_at_once=self._in_turn
        )
        self._relaxation, self._spec, self._skin = relaxation, spec, skin
        self._workers, self._slots = workers, slots
        self._start = jax.jit(partial(begin, relaxation))
        self._layouts = Layouts()

    def __call__(
        self,
        theta: Theta,
        structures: Sequence[Structure],
        *,
        buckets: Sequence[Bucket] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Final]:
        """Where they end, in the order in which they finish; ``Final.index`` says which they are.

        Args:
            theta: parameters.
            structures: on the host.
            buckets: from `plan_buckets`; planned when not given.
            should_stop: asked now and then; once true, structures under way are left and the iteration ends.
        """
        if not structures:
            return
        buckets = self._plan(structures) if buckets is None else buckets
        self._layouts.add(bucket.layout for bucket in buckets)
        host = self._host(theta, structures)
        if self._in_turn:
            yield from relax_in_turn(
                host, self._programs, buckets, workers=self._workers, should_stop=should_stop
            )
        else:
            yield from relax_side_by_side(
                host, self._programs, buckets, slots=self._slots, should_stop=should_stop
            )

    def prepare(
        self, theta: Theta, structures: Sequence[Structure], buckets: Sequence[Bucket] | None = None
    ) -> None:
        """Compile in the background what relaxing these structures needs; arguments as for the call."""
        host = self._host(theta, structures)
        for bucket in self._plan(structures) if buckets is None else buckets:
            job = host.open(bucket.members[0], bucket.layout)
            under_way = job.progress, job.system
            if not self._in_turn:
                count = slots_for(bucket.layout, len(bucket.members), self._slots)
                under_way = jax.tree.map(
                    lambda leaf, count=count: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype),
                    under_way,
                )
            self._programs.prepare(theta, *under_way)

    def _plan(self, structures: Sequence[Structure]) -> list[Bucket]:
        return plan_buckets(structures, self._spec, skin=self._skin, headroom=headroom(self._relaxation))

    def _host(self, theta: Theta, structures: Sequence[Structure]) -> Host:
        return Host(self._relaxation, self._start, theta, structures, self._spec, self._skin, self._layouts)


def headroom(relaxation: Relaxation) -> float:
    """Headroom to plan buckets with: a cell that shrinks brings more neighbors into reach than atoms that move."""
    return 1.4 if relaxation.moves_cell else 1.15
