"""What the processes of a run do together: share work out, add up, and tell each other.

Everyone uses these functions, alone too, where they do nothing. Those that communicate must be called by all
processes in the same order.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bptt_relax._types import PyTree
from bptt_relax.outcomes import Interrupted

Item = TypeVar("Item")
Result = TypeVar("Result")

PROCESS = "process"
"""Name of the axis of processes."""

MESSAGE = 4096
"""Bytes that processes tell each other at once; what is longer takes a second round."""


KEPT = (".json", ".jsonl", ".safetensors")
"""Files by which a run that is resumed knows what is done."""


class Processes:
    """One process that works alone.

    Attributes:
        count: of processes.
        index: of this one.
    """

    count, index = 1, 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """What falls to this process, in turn with the others; perhaps nothing."""
        return items[self.index :: self.count]

    def share_of(self, number: int) -> int:
        """Most of so many that fall to one process."""
        return -(-number // self.count)

    def add_up(self, tree: PyTree) -> PyTree:
        """Sum over processes of a pytree of numbers and arrays, the same to the last bit in all of them."""
        return tree

    def gather(self, value: Any) -> list[Any]:
        """A value of every process, through JSON: floats stay what they are, tuples become lists."""
        return [value]

    def of_first(self, work: Callable[[], Any]) -> Any:
        """What a function returns in the first process, through JSON; the others do not call it."""
        return self.gather(work() if self.index == 0 else None)[0]

    def each(self, work: Callable[[], Any]) -> list[Any]:
        """What a function returns in every process, through JSON.

        Raises:
            Interrupted: in all of them where the function did in one.
        """
        try:
            done, interruption = work(), None
        except Interrupted as raised:
            done, interruption = None, raised
        found = self.gather({"done": done, "interrupted": interruption and str(interruption)})
        for process in found:
            if process["interrupted"] is not None:
                raise interruption or Interrupted(process["interrupted"])
        return [process["done"] for process in found]

    def own(self, run: Path) -> Path:
        """The folder that stands for that of the run in this process.

        All but the first write where nobody looks; what a run that is resumed has found so far, they have too.

        Args:
            run: chosen by the first process.
        """
        return run

    def shared(self, path: Path) -> Path:
        """The place in the folder of the run of what lies in that of this process."""
        return path

    def to_all(self, tree: PyTree) -> PyTree:
        """Arrays that every process has alike, as arrays of all processes; for Orbax."""
        return tree

    def from_all(self, tree: PyTree) -> PyTree:
        """Inverse of `to_all`."""
        return tree


class Several(Processes):
    """One of several processes that JAX knows of.

    Args:
        scratch: an empty folder of this process.
    """

    def __init__(self, scratch: Path):
        self.count, self.index = jax.process_count(), jax.process_index()
        self._scratch, self._run = scratch, scratch

    def add_up(self, tree: PyTree) -> PyTree:
        """See `Processes.add_up`; the sum is on the host."""
        return self._together(self._sum, tree)

    def gather(self, value: Any) -> list[Any]:
        """See `Processes.gather`."""
        text = json.dumps(value).encode()
        start = len(text).to_bytes(8, "little") + text
        rows = self._bytes(start[:MESSAGE].ljust(MESSAGE, b"\0"))
        lengths = [int.from_bytes(row[:8], "little") for row in rows]
        rest = max(lengths) + 8 - MESSAGE
        if rest > 0:
            # Rounded up: a program serves many lengths.
            more = self._bytes(start[MESSAGE:].ljust(1 << (rest - 1).bit_length(), b"\0"))
            rows = [a + b for a, b in zip(rows, more, strict=True)]
        return [json.loads(row[8 : 8 + length]) for row, length in zip(rows, lengths, strict=True)]

    def own(self, run: Path) -> Path:
        """See `Processes.own`."""
        self._run = run.absolute()
        if self.index:
            for path in self._run.rglob("*"):
                if path.suffix in KEPT:
                    copy = self._scratch / path.relative_to(self._run)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
        self.gather(None)  # Nothing is written before everybody has read.
        return run if self.index == 0 else self._scratch

    def shared(self, path: Path) -> Path:
        """See `Processes.shared`."""
        return path if self.index == 0 else self._run / path.absolute().relative_to(self._scratch)

    def to_all(self, tree: PyTree) -> PyTree:
        """See `Processes.to_all`."""
        everywhere = NamedSharding(Mesh(np.array(jax.devices()), (PROCESS,)), PartitionSpec())

        def replicated(leaf) -> jax.Array:
            here = np.asarray(leaf)
            return jax.make_array_from_callback(here.shape, everywhere, lambda index: here[index])

        return jax.tree.map(replicated, tree)

    def from_all(self, tree: PyTree) -> PyTree:
        """See `Processes.from_all`."""
        return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf.addressable_data(0))), tree)

    @cached_property
    def _by_process(self) -> Mesh:
        first = {device.process_index: device for device in reversed(jax.devices())}
        return Mesh(np.array([first[index] for index in range(self.count)]), (PROCESS,))

    @cached_property
    def _sum(self):
        everywhere = NamedSharding(self._by_process, PartitionSpec())
        return jax.jit(
            lambda tree: jax.tree.map(lambda rows: jnp.sum(rows, axis=0), tree), out_shardings=everywhere
        )

    @cached_property
    def _collect(self):
        return jax.jit(lambda rows: rows, out_shardings=NamedSharding(self._by_process, PartitionSpec()))

    def _bytes(self, own: bytes) -> list[bytes]:
        """Bytes of every process, as many from each."""
        return [row.tobytes() for row in self._together(self._collect, np.frombuffer(own, np.uint8))]

    def _together(self, program: Callable[[PyTree], PyTree], tree: PyTree) -> PyTree:
        """Run a program on the trees of all processes, stacked; the result on the host."""
        spread = NamedSharding(self._by_process, PartitionSpec(PROCESS))
        here = self._by_process.devices[self.index]

        def stacked(leaf) -> jax.Array:
            row = jax.device_put(np.asarray(leaf, jnp.result_type(leaf))[None], here)
            return jax.make_array_from_single_device_arrays((self.count, *row.shape[1:]), spread, [row])

        done = program(jax.tree.map(stacked, tree))
        return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), done)


_alone = Processes()
_current = [_alone]


def processes() -> Processes:
    """The processes of this run, as this one sees them."""
    return _current[-1]
