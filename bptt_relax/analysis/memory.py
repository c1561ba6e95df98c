"""How much temporary memory a compiled program takes, and how much there is.

XLA knows the temporary memory of a program once it is compiled, before it runs; what is to be run must be compiled
anyway, and compiling takes no longer for many steps than for few.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def temporary_bytes(function: Callable[..., Any], *args: Any) -> int:
    """Temporary memory of a function, compiled for these arguments and not run.

    Raises:
        RuntimeError: this backend does not tell.
    """
    return program_bytes(jax.jit(function).lower(*args).compile())


def program_bytes(program: jax.stages.Compiled) -> int:
    """Temporary memory of a compiled program.

    Raises:
        RuntimeError: this backend does not tell.
    """
    analysis = program.memory_analysis()
    if analysis is None:
        raise RuntimeError(
            f"backend {jax.default_backend()!r} does not report the memory of compiled programs"
        )
    return int(analysis.temp_size_in_bytes)


def available_memory() -> float | None:
    """Bytes that a program may take for itself on the first device of this process; None where nobody tells."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    told = Path("/proc/meminfo")
    if jax.default_backend() != "cpu" or not told.exists():
        return None
    fields = dict(line.split(":", 1) for line in told.read_text().splitlines())
    return 1024.0 * float(fields["MemAvailable"].split()[0])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the device's, or Python's, way to say that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )
