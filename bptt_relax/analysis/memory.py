"""How much temporary memory a gradient takes, and which adjoint keeps it within a budget.

XLA knows the temporary memory of a program once it is compiled, before it runs; what is to be run must be compiled
anyway, and compiling takes no longer for many steps than for few.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from bptt_relax.adjoints import Adjoint
from bptt_relax.units import format_bytes


class MemoryPlan(NamedTuple):
    """The fastest adjoint within a budget.

    Attributes:
        adjoint: the choice.
        temporary_bytes: what its gradient takes.
        fits: whether that is within the budget; if not, it is the least of all.
        sentence: all that in words.
    """

    adjoint: Adjoint
    temporary_bytes: float
    fits: bool
    sentence: str


def plan_memory(
    budget_bytes: float, adjoints: Sequence[Adjoint], measure: Callable[[Adjoint], float]
) -> MemoryPlan:
    """The first adjoint whose gradient is within the budget.

    Args:
        budget_bytes: temporary memory to stay within (`units.parse_bytes` reads "8GB").
        adjoints: the fastest first, as an adjoint and its `Adjoint.leaner` ones.
        measure: temporary bytes with an adjoint (`temporary_bytes`); not asked beyond the first that fits.

    Raises:
        ValueError: no adjoints, or a budget that is not positive.
    """
    if not adjoints:
        raise ValueError("plan_memory needs at least one adjoint")
    if not budget_bytes > 0:
        raise ValueError(f"budget_bytes must be positive, got {budget_bytes}")
    budget = f"the budget of {format_bytes(budget_bytes)}"
    measured = []
    for adjoint in adjoints:
        taken = measure(adjoint)
        if taken <= budget_bytes:
            return MemoryPlan(adjoint, taken, True, f"{adjoint} ({format_bytes(taken)}) fits {budget}")
        measured.append((taken, adjoint))
    taken, adjoint = min(measured, key=lambda pair: pair[0])
    sentence = f"nothing fits {budget}; the smallest is {adjoint} ({format_bytes(taken)})"
    return MemoryPlan(adjoint, taken, False, sentence)


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the device's, or Python's, way to say that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )
