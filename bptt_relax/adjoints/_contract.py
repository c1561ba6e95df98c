"""The contract of an adjoint: how to run, and differentiate, a fixed number of steps; and what it says of itself."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from bptt_relax._types import PyTree
from bptt_relax.relax import Carry, Relaxation, RelaxInfo, RelaxState, Theta
from bptt_relax.systems import System

RecordFn = Callable[[RelaxState, RelaxInfo], PyTree]
"""What to keep of each step's new state and report; its outputs are stacked along a new first axis."""

RunFn = Callable[[Theta, Carry, System], tuple[Carry, PyTree]]
"""(theta, first carry, system) -> (final carry, stacked record)."""


class Adjoint(ABC):
    """How to differentiate: an argument of `unroll`, never a subclass of the relaxation.

    Each is a frozen dataclass in a file of its own that answers here what others ask; `named` finds it by the names it
    gives itself.

    Attributes:
        names: what settings call it: words, or ``word_K`` with K for a number of steps.
        needs_fixed_cell: it refuses relaxations that move the cell.
        needs_convergence: it differentiates where a relaxation ends, and means nothing before that is a fixed point.
        trains_rule: the hyperparameters of the update rule get a gradient.
    """

    names: ClassVar[tuple[str, ...]] = ()
    needs_fixed_cell: ClassVar[bool] = False
    needs_convergence: ClassVar[bool] = False
    trains_rule: ClassVar[bool] = True

    @abstractmethod
    def build(self, relaxation: Relaxation, num_steps: int, record: RecordFn) -> RunFn:
        """A function that relaxes for at most ``num_steps`` steps with this way of differentiating.

        Args:
            relaxation: from `relax.relaxation`.
            num_steps: length of the unroll; a state that has made steps already makes only the remaining ones.
            record: what to keep of each step.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """What settings call this one: `named` makes of it an adjoint with the same gradient."""

    @abstractmethod
    def stored_states(self, num_steps: int) -> int:
        """States that are kept for the backward pass of an unroll of this length; their memory is proportional."""

    @property
    def leaner(self) -> "tuple[Adjoint, ...]":
        """Adjoints with the same gradient that need less memory, the fastest first."""
        return ()

    @classmethod
    def from_name(cls, word: str, steps: int | None, arguments: Mapping[str, Any]) -> Self:
        """The adjoint of one of `names`.

        Args:
            word: the name without its number.
            steps: the number K; None for a name without.
            arguments: those of any adjoint, of which it takes its own.
        """
        del word, steps
        return cls(**own_arguments(cls, arguments))

    def __str__(self) -> str:
        """As one would write it: the class, and the arguments that are not the default ones."""
        if not dataclasses.is_dataclass(self):
            return type(self).__name__
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shown = (
            f"{f.name}={given[f.name]!r}" for f in dataclasses.fields(self) if given[f.name] != _default(f)
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def own_arguments(kind: type[Adjoint], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that this kind of adjoint has."""
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    return {name: value for name, value in arguments.items() if name in fields}
