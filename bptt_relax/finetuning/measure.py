"""What a model does on held-out relaxations, collected as the numbers that results.json holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import jax
import numpy as np

from bptt_relax import losses
from bptt_relax.finetuning.cases import Cases
from bptt_relax.finetuning.statistics import geometric_mean, mean_interval
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import Outcome
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation as Relaxer
from bptt_relax.relax import Theta
from bptt_relax.systems import Pair
from bptt_relax.training import LabelledFrame, Relaxed, make_force_error, make_relaxer
from bptt_relax.unrolling import path, rebuild, unroll


@dataclass(frozen=True)
class Measurement:
    """One model on one structure.

    Attributes:
        relaxed: where its relaxation ended.
        force_mae: over the ionic steps, eV/angstrom; None where the reference gives no forces.
        fmax_at_reference: largest force it sees at the reference structure, eV/angstrom.
    """

    relaxed: Relaxed
    force_mae: float | None
    fmax_at_reference: float


Runs = dict[str, list[Mapping[str, Measurement]]]
"""Stage -> one measurement of every held-out structure per seed."""


def to_json(measured: Mapping[str, Measurement]) -> dict:
    """Measurements as JSON."""
    return {
        name: asdict(m) | {"relaxed": asdict(m.relaxed) | {"positions": m.relaxed.positions.tolist()}}
        for name, m in measured.items()
    }


def from_json(stored: Mapping[str, dict]) -> dict[str, Measurement]:
    """Inverse of `to_json`."""

    def measurement(m: dict) -> Measurement:
        relaxed = Relaxed(**(m["relaxed"] | {"positions": np.array(m["relaxed"]["positions"])}))
        return Measurement(relaxed, m["force_mae"], m["fmax_at_reference"])

    return {name: measurement(m) for name, m in stored.items()}


class Ruler:
    """Measures models on a fixed set of relaxations; everything that does not change is prepared once.

    Args:
        cases: how to prepare relaxations.
        relaxations: to measure on.
        potential: the model's functions.
        relaxer: the relaxation to evaluate with.
        num_steps: largest number of steps.
    """

    def __init__(
        self,
        cases: Cases,
        relaxations: Sequence[Relaxation],
        potential: Potential,
        relaxer: Relaxer,
        num_steps: int,
    ):
        self.relaxations = {r.name: r for r in relaxations}
        self.pairs = {r.name: cases.pair(r) for r in relaxations}
        self._frames: dict[str, list[LabelledFrame]] = {}
        self._cases = cases
        self._relax = make_relaxer(relaxer, potential.graph, cases.layout, num_steps, skin=cases.skin)
        self._force_error = make_force_error(potential)

    def delta_q(self, theta: Theta, names: Sequence[str]) -> float:
        """Mean Delta Q over the named relaxations: the validation score."""
        found = {name: relaxed.delta_q for name, relaxed in self._relaxed(theta, names)}
        return float(np.mean([found[name] for name in names]))

    def measure(
        self, theta: Theta, names: Sequence[str], on_structure: Callable[[str, Relaxed], None]
    ) -> dict[str, Measurement]:
        """Measure everything on the named relaxations.

        Args:
            theta: the model.
            names: of relaxations.
            on_structure: told after each, in the order in which they finish.
        """
        found = {}
        for name, relaxed in self._relaxed(theta, names):
            if name not in self._frames:
                self._frames[name] = self._cases.frames(self.relaxations[name])
            errors = [self._force_error(theta, frame) for frame in self._frames[name]]
            labelled = self.relaxations[name].forces is not None
            mae = float(np.mean([error for error, _ in errors])) if labelled else None
            found[name] = Measurement(relaxed, mae, errors[-1][1])
            on_structure(name, relaxed)
        return {name: found[name] for name in names}

    def _relaxed(self, theta: Theta, names: Sequence[str]) -> Iterator[tuple[str, Relaxed]]:
        """Where relaxations of the named structures end, as they finish."""
        starts = [self.relaxations[name].initial for name in names]
        for index, relaxed in self._relax(theta, starts, [self.pairs[name] for name in names]):
            yield names[index], relaxed


def summarize(runs: Sequence[Mapping[str, Measurement]]) -> dict:
    """Numbers of one stage over seeds, as results.json holds them.

    Args:
        runs: one mapping of structure -> measurement per seed.

    Returns:
        delta_q with mean, geometric mean (of the per-structure means) and per-structure values, shares and errors.
    """
    names = sorted(runs[0])

    def per_structure(value: Callable[[Measurement], float]) -> dict[str, float]:
        return {name: float(np.mean([value(run[name]) for run in runs])) for name in names}

    def mean(value: Callable[[Measurement], float]) -> float:
        return float(np.mean(list(per_structure(value).values())))

    delta_q = per_structure(lambda m: m.relaxed.delta_q)
    per_seed = {name: [run[name].relaxed.delta_q for run in runs] for name in names}
    measured = [run[name].force_mae for run in runs for name in names]
    force_errors = [error for error in measured if error is not None]
    return {
        "delta_q": {
            "mean": float(np.mean(list(delta_q.values()))),
            "ci95": list(mean_interval(per_seed)),
            "geometric_mean": geometric_mean(list(delta_q.values())),
            "per_structure": delta_q,
            "per_seed": per_seed,
        },
        "rmsd": {
            "mean": mean(lambda m: m.relaxed.rmsd),
            "per_structure": per_structure(lambda m: m.relaxed.rmsd),
        },
        "max_displacement": {
            "mean": mean(lambda m: m.relaxed.max_displacement),
            "per_structure": per_structure(lambda m: m.relaxed.max_displacement),
        },
        "force_mae": float(np.mean(force_errors)) if force_errors else None,
        "fmax_at_dft": mean(lambda m: m.fmax_at_reference),
        "converged_fraction": mean(lambda m: float(m.relaxed.converged)),
        "basin_fraction": mean(lambda m: float(m.relaxed.same_basin)),
        "steps": mean(lambda m: float(m.relaxed.steps)),
    }


def path_recorder(relaxer: Relaxer, num_steps: int) -> Callable[[Theta, Pair], dict[str, list[float]]]:
    """Build a host function that follows one relaxation: Delta Q and largest force at every step.

    Args:
        relaxer: the relaxation.
        num_steps: largest number of steps.

    Returns:
        (theta, pair) -> {"delta_q": [...] sqrt(u)*angstrom, "max_force": [...] eV/angstrom}, one value per step made.
    """
    run = jax.jit(unroll(relaxer, num_steps, record=path))
    distances = jax.jit(jax.vmap(losses.delta_q, in_axes=(0, None, None)))

    def follow(theta: Theta, pair: Pair) -> dict[str, list[float]]:
        state, system = relaxer.init(theta, pair.initial, pair.system), pair.system
        followed: dict[str, list[float]] = {"delta_q": [], "max_force": []}
        for _ in range(num_steps):
            result = run(theta, state, system)
            made = int(result.state.steps - state.steps)
            followed["delta_q"] += np.asarray(
                distances(result.trace["positions"], pair.relaxed, pair.system)
            )[:made].tolist()
            followed["max_force"] += np.asarray(result.trace["max_force"])[:made].tolist()
            if int(result.outcome) != Outcome.STALE_NEIGHBORS:
                break
            state, system = rebuild(result.state, system)
        return followed

    return follow
