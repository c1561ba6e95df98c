"""Compiled programs: made in the background, kept between runs, and not kept until memory fails."""

import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp

from bptt_relax._types import PyTree
from bptt_relax.weights import cache

ONE_THREAD: dict[str, str | bool] = {"xla_cpu_multi_thread_eigen": False}
"""Compiler options of programs that several threads call at once: a tenth faster with CHGNet on two cores."""


class Programs:
    """One pure function, compiled once for each shape of its arguments, in the background where that is asked for.

    Tracing takes one thread for itself, and programs are traced in the order in which they were asked for; XLA then
    compiles several at once. Who calls a program that is being compiled waits for it instead of compiling it again.

    Args:
        function: of pytrees.
        several_at_once: it will be called from as many threads as there are cores, so that products of small matrices
            had better keep to the thread that asks for them.

    Attributes:
        waited: seconds that callers have waited for a compilation.
    """

    def __init__(self, function: Callable[..., PyTree], *, several_at_once: bool = False):
        self._jitted = jax.jit(function)
        self._options = ONE_THREAD if several_at_once and jax.default_backend() == "cpu" else {}
        self._compiled: dict[Hashable, Future[jax.stages.Compiled]] = {}
        self._lock = threading.Lock()
        self.waited = 0.0
        _ALIVE.add(self)

    def prepare(self, *arguments: PyTree) -> "Future[jax.stages.Compiled]":
        """Compile for arguments of these shapes, in the background; at once where that was asked for before.

        Args:
            *arguments: arrays, or what `jax.ShapeDtypeStruct` says of them.
        """
        shapes = jax.tree.map(_shape, arguments)
        leaves, structure = jax.tree.flatten(shapes)
        key = structure, *((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = _compilers().submit(_compile, self._jitted, shapes, self._options)
            return self._compiled[key]

    def compiled(self, *arguments: PyTree) -> jax.stages.Compiled:
        """The program for arguments of these shapes; waits for it."""
        compiling = self.prepare(*arguments)
        if not compiling.done():
            start = time.perf_counter()
            compiling.result()
            with self._lock:
                self.waited += time.perf_counter() - start
        return compiling.result()

    def __call__(self, *arguments: PyTree) -> PyTree:
        """Call the function; compiles it first where it was not yet for these shapes."""
        return self.compiled(*arguments)(*arguments)

    def forget(self) -> None:
        """Drop every compiled program."""
        with self._lock:
            self._compiled.clear()


_ALIVE: "weakref.WeakSet[Programs]" = weakref.WeakSet()
_tracing = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def _compilers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="compile")
    return _pool


def _compile(
    jitted: jax.stages.Wrapped, shapes: tuple[PyTree, ...], options: dict[str, str | bool]
) -> jax.stages.Compiled:
    # Python traces on one core whatever the number of threads; two at a time would both be late.
    with _tracing:
        lowered = jitted.lower(*shapes)
    return lowered.compile(compiler_options=options)


def _shape(leaf) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding if leaf.committed else None
        )
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jax.dtypes.canonicalize_dtype(jnp.result_type(leaf)))


def keep_compiled_programs() -> None:
    """Turn on JAX's persistent compilation cache, in the package's cache folder; call from a program's main only."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def make_room(most: float = 0.5) -> bool:
    """Forget the programs of this process, where they take up most of the memory maps that Linux allows it.

    A gradient of CHGNet takes some 800 of 65,530. Where none is left, XLA ends the process, with a segmentation fault
    or with "Unable to allocate section memory". What is forgotten and needed again comes from the cache.

    Args:
        most: share of the maps that may be taken.

    Returns:
        Programs were forgotten. Never where a system counts no maps.
    """
    maps, limit = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
    if not (maps.exists() and limit.exists()):
        return False
    taken = maps.read_bytes().count(b"\n")
    if taken < most * int(limit.read_text()):
        return False
    for programs in list(_ALIVE):
        programs.forget()
    jax.clear_caches()
    return True
