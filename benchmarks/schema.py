"""What one measurement file holds. Tables and figures read this and measure nothing."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA = "bptt_relax benchmarks 1"


class _Strict(BaseModel):
    # A file of another version must be noticed, not half understood.
    model_config = ConfigDict(extra="forbid")


class Measured(_Strict):
    """One entry of one comparison.

    Attributes:
        entry: key in `benchmarks.entries.ENTRIES`.
        rounds: seconds of each round. Round r of all entries of a comparison was run side by side.
        trace_seconds: from Python to the compiler's input.
        compile_seconds: by the compiler.
        temp_bytes: scratch memory that the compiler plans for; None without a compiler.
        peak_bytes: how far resident memory (on a GPU, allocated memory) rose during the first run.
        value: the loss, angstrom^2.
        gradient_norm: of the gradient over the parameters of the potential.
        note: why a number is missing.
    """

    entry: str
    rounds: list[float] = []
    trace_seconds: float | None = None
    compile_seconds: float | None = None
    temp_bytes: int | None = None
    peak_bytes: int | None = None
    value: float | None = None
    gradient_norm: float | None = None
    note: str | None = None


class Comparison(_Strict):
    """Entries measured side by side on one case.

    Attributes:
        name: of the case.
        model: name as in `bptt_relax.models.load`.
        atoms: number of atoms.
        steps: length of the unroll.
        entries: in the order they were planned.
        environment: `bptt_relax.report.environment` of the process that ran them.
        load: processes running or waiting on the machine, mean over a minute, before and after.
    """

    name: str
    model: str
    atoms: int
    steps: int
    entries: list[Measured]
    environment: dict[str, Any] = {}
    load: tuple[float, float] = (0.0, 0.0)

    def get(self, entry: str) -> Measured | None:
        """One entry, or None where it was not planned."""
        return next((measured for measured in self.entries if measured.entry == entry), None)


class Convergence(_Strict):
    """Gradients along one relaxation against the exact derivative of the minimum it leads to.

    Attributes:
        model: name as in `bptt_relax.models.load`.
        atoms: number of atoms.
        steps: lengths of the relaxation.
        max_force: where each of them ends, eV/angstrom.
        errors: strategy -> |g - g_exact| / |g_exact| for each length, over logarithms of parameters; None where
            there was no finite gradient.
    """

    model: str
    atoms: int
    steps: list[int]
    max_force: list[float]
    errors: dict[str, list[float | None]]


class Results(_Strict):
    """Everything one file holds.

    Attributes:
        schema_version: `SCHEMA`.
        preset: what was planned.
        comparisons: by case.
        convergence: None where it was not measured.
        left_out: what the preset leaves out, in words.
    """

    schema_version: Literal["bptt_relax benchmarks 1"] = SCHEMA
    preset: str
    comparisons: list[Comparison] = []
    convergence: Convergence | None = None
    left_out: list[str] = []

    def find(self, model: str, atoms: int, steps: int) -> Comparison | None:
        """The comparison of one case, or None."""
        wanted = (model, atoms, steps)
        return next((c for c in self.comparisons if (c.model, c.atoms, c.steps) == wanted), None)


def read(path: Path) -> Results:
    """Read a measurement file.

    Raises:
        ValueError: not a measurement file of this version.
    """
    return Results.model_validate_json(path.read_text(encoding="utf-8"))


def write(path: Path, results: Results) -> None:
    """Write a measurement file, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    part.replace(path)
