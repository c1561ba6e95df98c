"""``python -m benchmarks``: measure, keep the numbers in one JSON file, print one table, draw the figure."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from benchmarks import measure, schema, table
from benchmarks.presets import PRESETS
from benchmarks.schema import Results


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what gradients through relaxations cost, and compare with other software.

    Attributes:
        out: JSON file, written after every case. What an existing one holds is kept, except for what is measured
            again.
        preset: ci takes two minutes and needs no weights, laptop forty minutes on two free cores, full hours.
        resume: measure only what the file does not hold yet, as after an interruption.
        only: measure only the cases whose name contains one of these ("chgnet", "sw-63", "convergence").
        fill: also put the tables into these documents, between their <!-- benchmarks NAME --> marks.
        figure: also draw the figure into this folder, as adjoint-costs.png and .svg.
        draw: measure nothing; table and figure from what the file holds.
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FILE.json")]
    preset: Literal["ci", "laptop", "full"] = "laptop"
    resume: bool = False
    only: tuple[str, ...] = ()
    fill: tuple[Path, ...] = ()
    figure: Path | None = None
    draw: bool = False


def main(options: Options) -> int:
    """Do what was asked; exit code 2 where the file can't be used."""
    try:
        results = schema.read(options.out) if options.out.exists() else Results(preset=options.preset)
    except (OSError, ValueError) as error:
        print(f"error: {options.out} is not a measurement file of this version: {error}", file=sys.stderr)
        return 2
    if not options.draw:
        results = _measure(results, options)
    elif not options.out.exists():
        print(f"error: there is no {options.out} to draw from; measure first", file=sys.stderr)
        return 2
    table.show(results, Console(width=max(100, Console().width)))
    picture = None
    if options.figure:
        from benchmarks import figure  # matplotlib, which a table does not need

        picture, _ = written = figure.draw(results, options.figure)
        print(f"wrote {', '.join(map(str, written))}")
    try:
        for file in options.fill:
            print(f"filled {', '.join(table.fill(results, file, picture))} of {file}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(results: Results, options: Options) -> Results:
    preset = PRESETS[options.preset]
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {text}", file=sys.stderr, flush=True)

    def wanted(name: str) -> bool:
        return not options.only or any(part in name for part in options.only)

    found = {comparison.name: comparison for comparison in results.comparisons}
    results = results.model_copy(update={"preset": options.preset, "left_out": list(preset.left_out)})
    for plan in preset.plans:
        name = plan.case.name
        if options.resume and name in found and all(found[name].get(entry) for entry in plan.entries):
            say(f"{name}: kept from {options.out}")
        elif wanted(name):
            found[name] = measure.compare(plan, say)
            results = results.model_copy(update={"comparisons": list(found.values())})
            schema.write(options.out, results)
    if options.resume and results.convergence is not None:
        say(f"convergence: kept from {options.out}")
    elif wanted("convergence"):
        try:
            convergence = measure.converge(list(preset.convergence), say)
        except measure.WorkerError as error:
            say(str(error))
        else:
            results = results.model_copy(update={"convergence": convergence})
            schema.write(options.out, results)
    say("done")
    return results


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks", description=Options.__doc__)))
