"""Mean gradients over batches of examples of any shapes: side by side on accelerators, in turn on every core of a CPU.

Examples of one shape share a compiled program. Where memory does not suffice for a whole batch it is taken in
micro-batches, which changes nothing but rounding. Placement decides where a program runs: with several devices the
batch axis is sharded over them (`jax.sharding`), and the program does not know.
"""

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bptt_relax import threads, trees
from bptt_relax._types import PyTree
from bptt_relax.analysis.memory import available_memory, is_out_of_memory, program_bytes
from bptt_relax.batches.mapping import Mapping, choose_mapping
from bptt_relax.compilation import Programs
from bptt_relax.outcomes import Outcome, explain
from bptt_relax.relax import Theta
from bptt_relax.training.packing import Packed, pack_on_host
from bptt_relax.training.train_step import (
    ExampleReport,
    GradientSum,
    Objective,
    example_gradient,
    gradient_sum,
)
from bptt_relax.units import format_bytes

BATCH = "batch"
"""Name of the axis of devices over which examples are spread."""

EventFn = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Example:
    """One thing to learn from, with the name messages call it.

    Attributes:
        name: in messages.
        data: whose leaves are best in numpy; or a function that makes it, for whoever needs it.
    """

    name: str
    data: PyTree | Callable[[], PyTree]

    def made(self) -> "Example":
        """The same with its data."""
        return Example(self.name, self.data()) if callable(self.data) else self


class LeftOut(NamedTuple):
    """An example that could not be used.

    Attributes:
        name: of the example.
        reason: in words.
        loss: its loss.
        grad_norm: norm of its gradient.
    """

    name: str
    reason: str
    loss: float
    grad_norm: float


class BatchGradient(NamedTuple):
    """Gradients of a batch, added up over the examples that could be used.

    Attributes:
        total: sum of their gradients, packed; None where no example could be used.
        loss: sum of their losses.
        count: how many they are.
        left_out: the others.
        compiled: a program was compiled for it, so that its time says nothing about the next.
    """

    total: Packed | None
    loss: float
    count: int
    left_out: tuple[LeftOut, ...] = ()
    compiled: bool = False

    @property
    def mean(self) -> Theta:
        """Mean gradient of the examples that could be used."""
        assert self.total is not None
        return jax.tree.map(lambda leaf: leaf / self.count, self.total.unpack())


class MicroBatch(NamedTuple):
    """How the gradients of examples of one shape are taken.

    Attributes:
        way: which of the objectives, an index.
        size: examples in one call of its program.
        temporary_bytes: that one call takes; None before it is compiled.
    """

    way: int
    size: int
    temporary_bytes: int | None = None


class Gradients:
    """Gradients of an objective over batches.

    Args:
        objectives: ways to take the same gradient, the fastest first; where memory does not suffice for a single
            example with one, the next takes over.
        mapping: as `batches.over_structures`; with several devices side by side, so that all of them work.
        devices: of this process; all of them when not given.
        memory_budget: temporary memory that may be taken, bytes; what the device has when not given.
        on_event: told when memory runs out and what is done about it.

    Raises:
        ValueError: no objective.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        *,
        mapping: Mapping | None = None,
        devices: Sequence[Any] | None = None,
        memory_budget: float | None = None,
        on_event: EventFn = lambda event: None,
    ):
        if not objectives:
            raise ValueError("Gradients needs at least one objective")
        devices = jax.local_devices() if devices is None else list(devices)
        if mapping is None and len(devices) > 1:
            mapping = "side_by_side"
        self.objectives = tuple(objectives)
        self.on_event = on_event
        self._mapping: Mapping = choose_mapping(mapping)
        if self._mapping == "in_turn":
            devices = devices[:1]
        self._devices = len(devices)
        mesh = Mesh(np.array(devices), (BATCH,))
        self._everywhere = NamedSharding(mesh, PartitionSpec()) if len(devices) > 1 else None
        self._spread = NamedSharding(mesh, PartitionSpec(BATCH)) if len(devices) > 1 else None
        in_turn = self._mapping == "in_turn"
        self._programs = [
            Programs(gradient_sum(way, self._mapping), several_at_once=in_turn) for way in objectives
        ]
        self._budget = memory_budget
        self._at_once = threads.cores() if self._mapping == "in_turn" else 1
        self._plans: dict[Hashable, MicroBatch] = {}
        self._rebuilt: set[Hashable] = set()
        self._lock = threading.Lock()
        self._running, self._changed = 0, threading.Condition()

    @property
    def plans(self) -> list[MicroBatch]:
        """How the gradients of each shape are taken that has been seen."""
        return list(self._plans.values())

    def describe(self, plan: MicroBatch) -> str:
        """A plan in words: ``Checkpointed('force'), 28 side by side (3.1 GB)``."""
        together = (
            f"{plan.size} side by side" if self._mapping == "side_by_side" else f"{self._at_once} at a time"
        )
        used = "" if plan.temporary_bytes is None else f" ({format_bytes(plan.temporary_bytes)} each call)"
        return f"{self.objectives[plan.way].label}, {together}{used}"

    def prepare(self, theta: Theta | Packed, example: Example, count: int = 1) -> None:
        """Compile in the background for examples of this shape.

        Args:
            theta: the model.
            example: any of that shape.
            count: how many of them a batch has.
        """
        shape = trees.shape_of(example.data)
        plan = self._plans.setdefault(shape, MicroBatch(0, self._rounded(count)))
        self._programs[plan.way].prepare(*self._arguments(_packed(theta), [example], plan.size))

    def submit(self, theta: Theta | Packed, examples: Sequence[Example]) -> Callable[[], BatchGradient]:
        """Start on a batch.

        Args:
            theta: the model.
            examples: of any shapes.

        Returns:
            a function that waits for the result, and raises MemoryError where memory does not suffice for one
            example, whatever the way.
        """
        packed, waited = self.replicate(_packed(theta)), self._waited
        members: dict[Hashable, list[Example]] = {}
        for example in examples:
            members.setdefault(trees.shape_of(example.data), []).append(example)
        started: list[tuple[Sequence[Example], Future[list[GradientSum]]]] = []
        for shape, alike in members.items():
            plan = self._plans.setdefault(shape, MicroBatch(0, self._rounded(len(alike))))
            started += [
                (piece, threads.submit(self._run, packed, shape, piece))
                for piece in _pieces(alike, plan.size)
            ]

        def collect() -> BatchGradient:
            found = self._collect(packed, [(piece, running.result()) for piece, running in started])
            return found._replace(compiled=found.compiled or self._waited > waited)

        return collect

    def __call__(self, theta: Theta | Packed, examples: Sequence[Example]) -> BatchGradient:
        """The gradient of a batch: `submit`, and wait."""
        return self.submit(theta, examples)()

    def replicate(self, tree: PyTree) -> PyTree:
        """The same on every device."""
        return tree if self._everywhere is None else jax.device_put(tree, self._everywhere)

    @property
    def _waited(self) -> float:
        return sum(programs.waited for programs in self._programs)

    def _rounded(self, count: int) -> int:
        """Examples in one call of a program for a batch that has so many: a multiple of the number of devices."""
        return 1 if self._mapping == "in_turn" else -(-count // self._devices) * self._devices

    def _arguments(
        self, theta: Packed, examples: Sequence[Example], size: int
    ) -> tuple[Packed, PyTree, PyTree]:
        """Of a program: theta, the examples stacked and filled up with the first, and which of them count."""
        filled = [example.data for example in [*examples, *[examples[0]] * (size - len(examples))]]
        stacked = trees.stack_on_host(filled), np.arange(size) < len(examples)
        return self.replicate(theta), *jax.device_put(stacked, self._spread)

    def _run(self, theta: Packed, shape: Hashable, examples: Sequence[Example]) -> list[GradientSum]:
        """Sums over micro-batches, in the order of the examples."""
        while True:
            plan = self._plans[shape]
            try:
                plan = self._fitting(theta, shape, examples)
                with self._one_of_those_at_once():
                    # Waited for here: that memory ran out is known only then.
                    return [
                        jax.block_until_ready(
                            self._programs[plan.way](*self._arguments(theta, piece, plan.size))
                        )
                        for piece in _pieces(examples, plan.size)
                    ]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(shape, plan, f"memory ran out on {examples[0].name}", error)

    @contextlib.contextmanager
    def _one_of_those_at_once(self) -> Iterator[None]:
        """Wait until fewer are under way than memory suffices for."""
        with self._changed:
            self._changed.wait_for(lambda: self._running < self._at_once)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _fitting(self, theta: Packed, shape: Hashable, examples: Sequence[Example]) -> MicroBatch:
        """The plan for this shape, once its compiled program fits the memory."""
        while (plan := self._plans[shape]).temporary_bytes is None:
            arguments = self._arguments(theta, examples[: plan.size], plan.size)
            needed = program_bytes(self._programs[plan.way].compiled(*arguments))
            budget = self._budget or available_memory()
            if budget is None or needed * self._at_once <= budget:
                with self._lock:
                    if self._plans[shape] == plan:
                        self._plans[shape] = plan._replace(temporary_bytes=needed)
                continue
            reason = (
                f"{format_bytes(needed * self._at_once)} asked for, {format_bytes(int(budget))} may be taken"
            )
            self._shrink(shape, plan, reason, share=budget / (needed * self._at_once))
        return plan

    def _shrink(
        self,
        shape: Hashable,
        plan: MicroBatch,
        reason: str,
        error: Exception | None = None,
        share: float = 0.5,
    ) -> None:
        """Fewer examples at once; where it is one already, the next way.

        Raises:
            MemoryError: there is none.
        """
        with self._lock:
            if self._plans[shape] != plan:
                return  # Another thread has seen to it.
            before = self.describe(plan)
            smaller = int(share * plan.size) // self._devices * self._devices
            if self._mapping == "in_turn" and self._at_once > 1:
                self._at_once = max(1, int(share * self._at_once))
                instead = plan._replace(temporary_bytes=None)
            elif smaller >= 1:
                instead = MicroBatch(plan.way, smaller)
            elif plan.way + 1 < len(self.objectives):
                instead = MicroBatch(plan.way + 1, plan.size)
            elif error is None:
                # An estimate alone: the smallest there is gets its chance.
                self._plans[shape] = plan._replace(temporary_bytes=0)
                self.on_event(
                    {"event": "out_of_memory", "reason": reason, "tried": before, "instead": before}
                )
                return
            else:
                raise MemoryError(
                    f"{reason}, even with {before}. Take fewer training steps, leave out the largest structures, or "
                    "use a larger machine; --resume goes on"
                ) from error
            self._plans[shape] = instead
            event = {"reason": reason, "tried": before, "instead": self.describe(instead)}
        self.on_event({"event": "out_of_memory"} | event)

    def _collect(
        self, theta: Packed, found: list[tuple[Sequence[Example], list[GradientSum]]]
    ) -> BatchGradient:
        total: Packed | None = None
        loss, count, left_out, compiled = 0.0, 0, [], False
        for examples, sums in found:
            reports = _reports(sums)
            for piece in sums:
                if int(piece.count):
                    added = cast(Packed, piece.total)
                    total = added if total is None else _add(total, added)
            for example, report in zip(examples, reports, strict=False):
                shape = trees.shape_of(example.data)
                way = self.objectives[self._plans[shape].way]
                if int(report.outcome) == Outcome.STALE_NEIGHBORS and way.through_rebuilds is not None:
                    compiled |= shape not in self._rebuilt
                    self._rebuilt.add(shape)
                    gradient, report = _again(way.through_rebuilds, theta, example)
                    if bool(report.used):
                        total = gradient if total is None else _add(total, gradient)
                if bool(report.used):
                    loss, count = loss + float(report.loss), count + 1
                else:
                    left_out.append(_left_out(example, report))
        return BatchGradient(total, loss, count, tuple(left_out), compiled)


def _pieces(examples: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [examples[k : k + size] for k in range(0, len(examples), size)]


def _reports(sums: list[GradientSum]) -> list[ExampleReport]:
    """Of every example, on the host."""
    stacked = [jax.device_get(piece.reports) for piece in sums]
    return [
        ExampleReport(*(rows[index] for rows in reports))
        for reports in stacked
        for index in range(len(reports.loss))
    ]


def _again(gradient_fn, theta: Packed, example: Example) -> tuple[Packed, ExampleReport]:
    data = jax.tree.map(jnp.asarray, example.data)
    unpacked = jax.tree.map(jnp.asarray, jax.device_get(theta).unpack())
    gradient, report = example_gradient(gradient_fn, unpacked, data)
    return jax.device_put(pack_on_host(gradient)), jax.device_get(report)


def _left_out(example: Example, report: ExampleReport) -> LeftOut:
    stale = int(report.outcome) >= Outcome.STALE_NEIGHBORS
    reason = explain(int(report.outcome)) if stale else "loss or gradient is not finite"
    return LeftOut(example.name, reason, float(report.loss), float(report.grad_norm))


def _packed(theta: Theta | Packed) -> Packed:
    return theta if isinstance(theta, Packed) else jax.device_put(pack_on_host(theta))


@jax.jit
def _add(a: Packed, b: Packed) -> Packed:
    return jax.tree.map(jnp.add, a, b)
