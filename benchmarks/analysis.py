"""Ratios, growth exponents and targets, from measurements. Pure arithmetic."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.presets import CHGNET, SW
from benchmarks.schema import Comparison, Measured, Results


class Spread(NamedTuple):
    """A ratio over the rounds of a comparison.

    Attributes:
        middle: the median.
        low: the smallest.
        high: the largest.
    """

    middle: float
    low: float
    high: float


class Growth(NamedTuple):
    """Exponent p of cost ~ size^p, fitted over logarithms.

    Attributes:
        model: name as in `bptt_relax.models.load`.
        entry: key in `benchmarks.entries.ENTRIES`.
        quantity: "time" or "memory".
        variable: "steps" or "atoms".
        sizes: of the variable.
        exponent: p.
    """

    model: str
    entry: str
    quantity: str
    variable: str
    sizes: tuple[int, ...]
    exponent: float


class Target(NamedTuple):
    """What was promised, and what was found.

    Attributes:
        what: in words.
        case: where it was measured, in words.
        found: the number; None where it was not measured.
        limit: the number promised.
        at_least: whether the number must not be below the limit; otherwise not above.
    """

    what: str
    case: str
    found: float | None
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """None where it was not measured."""
        if self.found is None:
            return None
        return self.found >= self.limit if self.at_least else self.found <= self.limit


def ratio(comparison: Comparison | None, above: str, below: str) -> Spread | None:
    """Time of one entry over that of another, round by round; None where either was not run."""
    pair = _pair(comparison, above, below)
    if pair is None or not pair[0].rounds or not pair[1].rounds:
        return None
    each = [a / b for a, b in zip(pair[0].rounds, pair[1].rounds, strict=True)]
    return Spread(median(each), min(each), max(each))


def backward_steps(comparison: Comparison | None, entry: str) -> float | None:
    """What a gradient costs beyond the forward relaxation, in forward steps."""
    spread = ratio(comparison, entry, "forward")
    return None if spread is None or comparison is None else (spread.middle - 1.0) * comparison.steps


def memory(measured: Measured | None) -> int | None:
    """Scratch memory: the compiler's plan, or what the process was seen to take where there is no compiler."""
    if measured is None:
        return None
    return measured.peak_bytes if measured.temp_bytes is None else measured.temp_bytes


def growth(results: Results) -> list[Growth]:
    """Every exponent that the measurements can give: at least two sizes with all else equal."""
    found = []
    groups: dict[tuple, list[tuple[int, float]]] = {}
    for comparison in results.comparisons:
        for measured in comparison.entries:
            for quantity, value in (("time", _time(measured)), ("memory", measured.temp_bytes)):
                if value:
                    common = (comparison.model, measured.entry, quantity)
                    groups.setdefault((*common, "steps", comparison.atoms), []).append(
                        (comparison.steps, value)
                    )
                    groups.setdefault((*common, "atoms", comparison.steps), []).append(
                        (comparison.atoms, value)
                    )
    # The largest group speaks for its kind: one number per model, entry, quantity and variable.
    for (model, entry, quantity, variable, _), points in sorted(groups.items(), key=lambda g: -len(g[1])):
        known = {(g.model, g.entry, g.quantity, g.variable) for g in found}
        if len(points) > 1 and (model, entry, quantity, variable) not in known:
            points = sorted(points)
            sizes = tuple(size for size, _ in points)
            found.append(Growth(model, entry, quantity, variable, sizes, slope(points)))
    return found


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of log y over log x.

    Args:
        points: (x, y), all positive, with at least two different x.
    """
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - mean_x) ** 2 for x in xs)


def disagreement(comparison: Comparison, entry: str, exact: Sequence[str]) -> float | None:
    """Relative difference of the gradient's norm to that of the first exact entry that has one."""
    norms = [m.gradient_norm for name in exact if (m := comparison.get(name)) and m.gradient_norm]
    measured = comparison.get(entry)
    if measured is None or measured.gradient_norm is None or not norms:
        return None
    return abs(measured.gradient_norm - norms[0]) / norms[0]


def targets(results: Results) -> list[Target]:
    """The targets of the project, in the order they were set."""
    sw, chgnet = results.find(SW, 63, 64), results.find(CHGNET, 63, 40)
    short, long = results.find(CHGNET, 63, 16), results.find(CHGNET, 63, 1024)
    found = []
    for strategy, limit in (("force", 3.5), ("step", 4.5)):
        for comparison, name in (
            (sw, "SW, 63 atoms, 64 steps"),
            (chgnet, "CHGNet, 63 atoms, 40 steps"),
        ):
            times = ratio(comparison, strategy, "forward")
            found.append(Target(f"time / forward, {strategy}", name, times and times.middle, limit))
    for strategy in ("force", "step"):
        temp = [c and (m := c.get(strategy)) and m.temp_bytes for c in (short, long)]
        grown = temp[1] / temp[0] if temp[0] and temp[1] else None
        found.append(Target(f"memory, 1024 / 16 steps, {strategy}", "CHGNet, 63 atoms", grown, 1.2))
    for model, steps, name in ((SW, 256, "SW"), (CHGNET, 160, "CHGNet")):
        for entry, tolerance in (("implicit", ""), ("implicit-loose", ", to 1e-3")):
            cost = backward_steps(results.find(model, 63, steps), entry)
            if cost is not None or entry == "implicit":
                what = f"implicit, backward in steps{tolerance}"
                found.append(Target(what, f"{name}, 63 atoms, {steps} steps", cost, 30.0))
    place = "CHGNet, 63 atoms, 40 steps"
    faster = ratio(chgnet, "torch", "force")
    found.append(Target("time, torch unrolled / force", place, faster and faster.middle, 2.5, True))
    peaks = _pair(chgnet, "torch", "force")
    smaller = None
    if peaks and peaks[0].peak_bytes and peaks[1].peak_bytes:
        smaller = peaks[0].peak_bytes / peaks[1].peak_bytes
    found.append(Target("memory, torch unrolled / force", place, smaller, 50.0, True))
    relaxed = ratio(chgnet, "ase", "forward")
    found.append(Target("time, ASE + chgnet / forward", place, relaxed and relaxed.middle, 2.0, True))
    compiled = chgnet and chgnet.get("force")
    seconds = None
    if compiled and compiled.compile_seconds is not None and compiled.trace_seconds is not None:
        seconds = compiled.trace_seconds + compiled.compile_seconds
    found.append(Target("seconds to compile, force", place, seconds, 25.0))
    return found


def _time(measured: Measured) -> float | None:
    return median(measured.rounds) if measured.rounds else None


def _pair(comparison: Comparison | None, one: str, other: str) -> tuple[Measured, Measured] | None:
    if comparison is None:
        return None
    found = comparison.get(one), comparison.get(other)
    return None if found[0] is None or found[1] is None else (found[0], found[1])
