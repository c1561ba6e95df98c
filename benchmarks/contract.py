"""What everything here agrees on: a case, an entry that competes on it, and the program that an entry builds."""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Kind = Literal["forward", "gradient"]


class Case(NamedTuple):
    """A relaxation to be measured.

    Attributes:
        model: name as in `bptt_relax.models.load`.
        atoms: number of silicon atoms; one below a multiple of eight is a vacancy.
        steps: length of the unroll.
    """

    model: str
    atoms: int
    steps: int

    @property
    def name(self) -> str:
        """Short name, as in the results and for ``--only``."""
        return f"{'sw' if self.model == 'stillinger-weber' else 'chgnet'}-{self.atoms}-{self.steps}"


class Digest(NamedTuple):
    """Enough of a result to see that two programs computed the same.

    Attributes:
        value: the loss, angstrom^2.
        gradient_norm: Euclidean norm of its gradient over the parameters of the potential; None without gradient.
    """

    value: float
    gradient_norm: float | None


class Program(NamedTuple):
    """Something that can be run again and again.

    Attributes:
        run: one complete execution; returns once the device is done.
        digest: what `run` returned, in short.
        trace_seconds: from Python to the compiler's input; 0 where nothing is traced.
        compile_seconds: by the compiler; 0 where nothing is compiled.
        temp_bytes: scratch memory that the compiler plans for; None where there is no compiler.
    """

    run: Callable[[], Any]
    digest: Callable[[Any], Digest]
    trace_seconds: float = 0.0
    compile_seconds: float = 0.0
    temp_bytes: int | None = None


class Entry(NamedTuple):
    """A way to relax, or to differentiate a relaxation.

    Attributes:
        label: what tables and figures call it.
        kind: whether it computes a gradient.
        build: case -> program; imports what it needs only when called.
        requires: packages beyond those of bptt_relax itself.
        exact: whether its gradient is the derivative of the unrolled relaxation, and must agree with the others'.
        chgnet_only: whether it can't run another model.
    """

    label: str
    kind: Kind
    build: Callable[[Case], Program]
    requires: tuple[str, ...] = ()
    exact: bool = True
    chgnet_only: bool = False

    def missing(self) -> str | None:
        """Why it can't be measured here, or None."""
        absent = [package for package in self.requires if importlib.util.find_spec(package) is None]
        return f"{', '.join(absent)} not installed: pip install -e '.[bench]'" if absent else None
