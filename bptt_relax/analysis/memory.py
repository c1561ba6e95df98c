"""How much temporary memory a gradient takes, predicted from small compilations, and which plan fits a budget.

XLA knows the temporary memory of a program once it is compiled, before it runs. For one adjoint it is linear in the
number of atoms and in the number of states that the adjoint stores, so a few small programs predict large ones.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax import unrolling
from bptt_relax._types import Positions
from bptt_relax.adjoints import Adjoint, Checkpointed, FrozenGeometry, Full, Guided, Implicit, Truncated
from bptt_relax.relax import Relaxation, Theta
from bptt_relax.systems import System
from bptt_relax.units import format_bytes

Result = TypeVar("Result")

FASTEST_FIRST: tuple[Adjoint, ...] = (Checkpointed("force"), Checkpointed("segments"))
"""Exact adjoints, the fastest first."""


class MemoryModel(NamedTuple):
    """Temporary bytes of the gradient for one structure: base + per_atom N + per_stored N S.

    S is the number of states that the adjoint stores (`stored_states`).

    Attributes:
        adjoint: how the gradient is taken.
        base: bytes.
        per_atom: bytes.
        per_stored: bytes.
        error: largest relative error of the fit on what it was fitted to.
    """

    adjoint: Adjoint
    base: float
    per_atom: float
    per_stored: float
    error: float

    def predict(self, num_atoms: int, num_steps: int) -> float:
        """Temporary bytes for one structure."""
        stored = stored_states(self.adjoint, num_steps)
        return self.base + self.per_atom * num_atoms + self.per_stored * num_atoms * stored


class Option(NamedTuple):
    """One way to run.

    Attributes:
        adjoint: how to differentiate.
        micro_batch: structures differentiated side by side (vmap).
        predicted_bytes: temporary memory.
    """

    adjoint: Adjoint
    micro_batch: int
    predicted_bytes: float


class Plan(NamedTuple):
    """The fastest option within the budget, and what to fall back to.

    Attributes:
        chosen: the option.
        fits: whether it is within the budget; if not, it is the smallest there is.
        fallbacks: options that need less, largest first.
        sentence: all that in words.
    """

    chosen: Option
    fits: bool
    fallbacks: tuple[Option, ...]
    sentence: str


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


def stored_states(adjoint: Adjoint, num_steps: int) -> int:
    """How many states (or, for `Full`, steps) an adjoint keeps for its backward pass.

    Raises:
        TypeError: an adjoint of one's own, which must be measured at its size.
    """
    match adjoint:
        case Checkpointed(what="segments"):
            length = adjoint.segment_length(num_steps)
            return ceil(num_steps / length) + length
        case Checkpointed() | Full():
            return num_steps
        case Truncated(first=int() as window) | Guided(window=window):
            return min(window, num_steps)
        case Truncated(last=int() as window):
            return 2 * min(window, num_steps)
        case Implicit() | FrozenGeometry():
            return 0
    raise TypeError(
        f"no memory model for adjoint {adjoint!r}: measure it with temporary_bytes at the size you need"
    )


def gradient_of_relaxation(relaxation: Relaxation, num_steps: int, adjoint: Adjoint):
    """A gradient that needs as much memory as any of a loss of the final positions: (theta, positions, system)."""
    run = unrolling.unroll(relaxation, num_steps, adjoint)

    def loss(theta: Theta, positions: Positions, system: System):
        return jnp.sum(run(theta, relaxation.init(theta, positions, system), system).state.positions ** 2)

    return jax.value_and_grad(loss)


def fit_memory(
    relaxation: Relaxation,
    theta: Theta,
    examples: Sequence[tuple[Positions, System]],
    adjoint: Adjoint,
    *,
    sample_steps: Sequence[int] = (4, 12),
) -> MemoryModel:
    """Fit the temporary memory of gradients to compilations at small sizes; nothing is run.

    Args:
        relaxation: what will be differentiated.
        theta: parameters.
        examples: structures of different sizes; with a single one, everything is taken to grow with the atoms.
        adjoint: how to differentiate.
        sample_steps: numbers of steps to compile for. More than one, or memory is taken to be independent of it.
    """
    rows, measured = [], []
    for positions, system in examples:
        for num_steps in sample_steps:
            gradient = gradient_of_relaxation(relaxation, num_steps, adjoint)
            measured.append(temporary_bytes(gradient, theta, positions, system))
            rows.append((positions.shape[0], positions.shape[0] * stored_states(adjoint, num_steps)))
    bytes_, features = np.asarray(measured, float), np.asarray(rows, float)
    several = len({row[0] for row in rows}) > 1
    design = np.column_stack([np.ones(len(rows)) if several else np.zeros(len(rows)), features])
    weights = 1 / bytes_  # relative errors: the small samples count as much as the large ones
    (base, per_atom, per_stored), *_ = np.linalg.lstsq(
        design * weights[:, None], bytes_ * weights, rcond=1e-9
    )
    error = np.max(np.abs(design @ (base, per_atom, per_stored) - bytes_) / bytes_)
    return MemoryModel(adjoint, float(base), float(per_atom), float(per_stored), float(error))


def plan(
    budget_bytes: float,
    models: Sequence[MemoryModel],
    *,
    num_atoms: int,
    num_steps: int,
    micro_batch: int = 1,
) -> Plan:
    """The first option within the budget: each adjoint in turn, then each with half the micro-batch, and so on.

    Args:
        budget_bytes: temporary memory to stay within (`units.parse_bytes` reads "8GB").
        models: from `fit_memory`, the fastest adjoint first (`FASTEST_FIRST`).
        num_atoms: padded number of atoms.
        num_steps: length of the unroll.
        micro_batch: structures to differentiate side by side, if they fit.

    Raises:
        ValueError: no models, or a size that is not positive.
    """
    if not models:
        raise ValueError("plan needs at least one memory model: see fit_memory")
    for name, value in (
        ("budget_bytes", budget_bytes),
        ("num_atoms", num_atoms),
        ("micro_batch", micro_batch),
    ):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    sizes = [micro_batch]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    options = [
        Option(model.adjoint, size, size * model.predict(num_atoms, num_steps))
        for size in sizes
        for model in models
    ]
    within = [option for option in options if option.predicted_bytes <= budget_bytes]
    chosen = within[0] if within else min(options, key=lambda option: option.predicted_bytes)
    less = [option for option in options if option.predicted_bytes < chosen.predicted_bytes]
    fallbacks = tuple(sorted(less, key=lambda option: -option.predicted_bytes))
    budget = f"the budget of {format_bytes(budget_bytes)}"
    sentence = (
        f"{describe(chosen)} fits {budget}"
        if within
        else f"nothing fits {budget}; the smallest is {describe(chosen)}"
    )
    return Plan(chosen, bool(within), fallbacks, sentence)


def plan_measured(
    budget_bytes: float, adjoints: Sequence[Adjoint], measure: Callable[[Adjoint], float]
) -> Plan:
    """The first adjoint whose gradient, compiled at its real size, is within the budget.

    What is to be run must be compiled anyway, and compiling takes no longer for many steps than for few: where one
    program serves all, this is exact and cheaper than `fit_memory`.

    Args:
        budget_bytes: temporary memory to stay within.
        adjoints: the fastest first (`FASTEST_FIRST`).
        measure: temporary bytes with an adjoint (`temporary_bytes`); not asked beyond the first that fits.

    Raises:
        ValueError: no adjoints, or a budget that is not positive.
    """
    models = []
    for adjoint in adjoints:
        models.append(MemoryModel(adjoint, measure(adjoint), per_atom=0.0, per_stored=0.0, error=0.0))
        found = plan(budget_bytes, models, num_atoms=1, num_steps=1)
        if found.fits:
            return found
    return plan(budget_bytes, models, num_atoms=1, num_steps=1)


def with_fallback(plan: Plan, attempt: Callable[[Option], Result]) -> tuple[Result, Option]:
    """Run the chosen option, and the next smaller one each time that memory runs out, saying so.

    Args:
        plan: from `plan`.
        attempt: runs an option and waits for its result (`jax.block_until_ready`), or the error comes too late.

    Returns:
        the result and the option that gave it.

    Raises:
        MemoryError: nothing fitted.
    """
    options = (plan.chosen, *plan.fallbacks)
    for option, following in zip(options, (*plan.fallbacks, None), strict=True):
        try:
            return attempt(option), option
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if following is not None:
                warnings.warn(
                    f"out of memory with {describe(option)}: trying {describe(following)}", stacklevel=2
                )
    raise MemoryError(
        f"out of memory even with {describe(options[-1])}: take fewer steps, Implicit, or a smaller structure"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the device's, or Python's, way to say that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def describe(option: Option) -> str:
    """An option in words."""
    together = "" if option.micro_batch == 1 else f", {option.micro_batch} structures at a time"
    return f"{adjoint_name(option.adjoint)}{together} ({format_bytes(option.predicted_bytes)})"


def adjoint_name(adjoint: Adjoint) -> str:
    """An adjoint as one would write it: its class and the arguments that are not the default ones."""
    if not dataclasses.is_dataclass(adjoint):
        return type(adjoint).__name__
    given = {field.name: getattr(adjoint, field.name) for field in dataclasses.fields(adjoint)}
    defaults = {field.name: field.default for field in dataclasses.fields(adjoint)}
    shown = (f"{key}={value!r}" for key, value in given.items() if value != defaults[key])
    return f"{type(adjoint).__name__}({', '.join(shown)})"
