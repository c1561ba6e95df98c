"""What a model does on held-out relaxations, collected as the numbers that results.json holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import attrgetter

import jax
import numpy as np

from bptt_relax import losses
from bptt_relax._types import Cell, Positions, Scalar
from bptt_relax.finetuning.cases import Cases
from bptt_relax.finetuning.statistics import geometric_mean, mean_interval
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import Outcome
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation as Relaxer
from bptt_relax.relax import Theta
from bptt_relax.systems import Pair
from bptt_relax.training import FrameErrors, LabelledFrame, Relaxed, make_frame_errors, make_relaxer
from bptt_relax.unrolling import path, rebuild, unroll


@dataclass(frozen=True)
class Measurement:
    """One model on one structure.

    Attributes:
        relaxed: where its relaxation ended.
        force_mae: over the ionic steps, eV/angstrom; None where the reference gives no forces.
        fmax_at_reference: largest force it sees at the reference structure, eV/angstrom.
        energy_mae: of the energy per atom above that of the reference structure, eV; None where the reference gives no
            energies, or cells are given throughout.
        stress_mae: over the ionic steps, eV/angstrom^3; likewise.
        pressure_at_reference: that it sees at the reference structure beyond the reference's own, eV/angstrom^3.
    """

    relaxed: Relaxed
    force_mae: float | None
    fmax_at_reference: float
    energy_mae: float | None = None
    stress_mae: float | None = None
    pressure_at_reference: float | None = None


Runs = dict[str, list[Mapping[str, Measurement]]]
"""Stage -> one measurement of every held-out structure per seed."""


def to_json(measured: Mapping[str, Measurement]) -> dict:
    """Measurements as JSON."""
    return {
        name: asdict(m) | {"relaxed": {key: _plain(value) for key, value in asdict(m.relaxed).items()}}
        for name, m in measured.items()
    }


def from_json(stored: Mapping[str, dict]) -> dict[str, Measurement]:
    """Inverse of `to_json`."""

    def array(value: list | None) -> np.ndarray | None:
        return None if value is None else np.array(value)

    def measurement(m: dict) -> Measurement:
        arrays = {key: array(m["relaxed"].get(key)) for key in ("positions", "cell")}
        rest = {key: value for key, value in m.items() if key != "relaxed"}
        return Measurement(Relaxed(**(m["relaxed"] | arrays)), **rest)

    return {name: measurement(m) for name, m in stored.items()}


def _plain(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


class Ruler:
    """Measures models on a fixed set of relaxations; everything that does not change is prepared once.

    Args:
        cases: how to prepare relaxations.
        relaxations: to measure on.
        potential: the model's functions.
        relaxer: the relaxation to evaluate with.
        num_steps: largest number of steps.
        cell_relaxer: the same for relaxations whose cell is relaxed too.
    """

    def __init__(
        self,
        cases: Cases,
        relaxations: Sequence[Relaxation],
        potential: Potential,
        relaxer: Relaxer,
        num_steps: int,
        cell_relaxer: Relaxer | None = None,
    ):
        self.relaxations = {r.name: r for r in relaxations}
        self.pairs = {r.name: cases.pair(r) for r in relaxations}
        self._frames: dict[str, list[LabelledFrame]] = {}
        self._cases = cases
        self._relax = {
            moves: make_relaxer(chosen, potential.graph, cases.layout, num_steps, skin=cases.skin)
            for moves, chosen in ((False, relaxer), (True, cell_relaxer))
            if chosen is not None
        }
        self._errors = make_frame_errors(potential)

    def distance(self, theta: Theta, names: Sequence[str], *, cell_weight: float = 1.0) -> float:
        """Mean over the named relaxations of Delta Q, with that of the cell where it moves: the validation score."""
        found = {name: relaxed.distance(cell_weight) for name, relaxed in self._relaxed(theta, names)}
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
            errors = [self._errors(theta, frame) for frame in self._frames[name]]
            found[name] = _measurement(self.relaxations[name], relaxed, errors, self._cases.move_cells)
            on_structure(name, relaxed)
        return {name: found[name] for name in names}

    def _relaxed(self, theta: Theta, names: Sequence[str]) -> Iterator[tuple[str, Relaxed]]:
        """Where relaxations of the named structures end, as they finish."""
        for moves_cell, relax in self._relax.items():
            chosen = [name for name in names if (self.pairs[name].relaxed_cell is not None) == moves_cell]
            starts = [self.relaxations[name].initial for name in chosen]
            for index, relaxed in relax(theta, starts, [self.pairs[name] for name in chosen]):
                yield chosen[index], relaxed


def _measurement(
    relaxation: Relaxation, relaxed: Relaxed, errors: Sequence[FrameErrors], of_cells: bool
) -> Measurement:
    """One model on one structure, from where it ends and from the errors on the labelled ionic steps."""
    mae = _mean([error.force_mae for error in errors]) if relaxation.forces is not None else None
    found = Measurement(relaxed, mae, errors[-1].max_force)
    if not of_cells or relaxation.forces is None:
        return found
    stress, energy = _mean([error.stress_mae for error in errors]), None
    if relaxation.energies is not None:
        labelled = np.all(np.isfinite(relaxation.forces[relaxation.start :]), axis=(1, 2))
        reference = relaxation.energies[relaxation.start :][labelled]
        predicted = np.array([error.energy for error in errors])
        wrong = (predicted - predicted[-1]) - (reference - reference[-1])
        energy = _mean(np.abs(wrong[:-1]) / len(relaxation.relaxed.species))
    pressure = errors[-1].pressure
    if relaxation.stresses is not None:
        pressure += np.trace(relaxation.stresses[-1]) / 3.0
    return replace(
        found,
        energy_mae=energy,
        stress_mae=stress,
        pressure_at_reference=float(pressure) if np.isfinite(pressure) else None,
    )


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    """Mean of what is known."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else None


def summarize(runs: Sequence[Mapping[str, Measurement]]) -> dict:
    """Numbers of one stage over seeds, as results.json holds them.

    Args:
        runs: one mapping of structure -> measurement per seed.

    Returns:
        delta_q with mean, geometric mean (of the per-structure means) and per-structure values, shares and errors;
        ``cell`` where some cells were relaxed too.
    """
    names = sorted(runs[0])

    def per_structure(value: Callable[[Measurement], float]) -> dict[str, float]:
        return {name: float(np.mean([value(run[name]) for run in runs])) for name in names}

    def mean(value: Callable[[Measurement], float]) -> float:
        return float(np.mean(list(per_structure(value).values())))

    delta_q = per_structure(lambda m: m.relaxed.delta_q)
    per_seed = {name: [run[name].relaxed.delta_q for run in runs] for name in names}

    def known(value: Callable[[Measurement], float | None]) -> float | None:
        found = [value(run[name]) for run in runs for name in names]
        return _mean([x for x in found if x is not None])

    summary = {
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
        "force_mae": known(lambda m: m.force_mae),
        "fmax_at_dft": mean(lambda m: m.fmax_at_reference),
        "converged_fraction": mean(lambda m: float(m.relaxed.converged)),
        "basin_fraction": mean(lambda m: float(m.relaxed.same_basin)),
        "steps": mean(lambda m: float(m.relaxed.steps)),
    }
    moved = [name for name in names if runs[0][name].relaxed.cell is not None]
    if moved:
        summary["cell"] = summarize_cells([{name: run[name] for name in moved} for run in runs])
        summary |= {key: known(attrgetter(key)) for key in ("energy_mae", "stress_mae")}
    return summary


def summarize_cells(runs: Sequence[Mapping[str, Measurement]]) -> dict:
    """Errors of relaxed cells of one stage over seeds.

    Args:
        runs: one mapping of structure -> measurement per seed, all with a cell that was relaxed.

    Returns:
        volume_error and strain, pure numbers, each with mean, interval and values per structure and seed; what of the
        volume error and of the pressure at the reference structure (eV/angstrom^3) is common to all structures.
    """
    names = sorted(runs[0])

    def over_seeds(value: Callable[[Relaxed], float | None]) -> dict[str, list[float]]:
        return {name: [value(run[name].relaxed) or 0.0 for run in runs] for name in names}

    def described(per_seed: dict[str, list[float]]) -> dict:
        means = {name: float(np.mean(values)) for name, values in per_seed.items()}
        return {
            "mean": float(np.mean(list(means.values()))),
            "ci95": list(mean_interval(per_seed)),
            "per_structure": means,
            "per_seed": per_seed,
        }

    change = over_seeds(lambda r: r.volume_change)
    pressures = [m.pressure_at_reference for run in runs for m in run.values()]
    pressures = np.array([p for p in pressures if p is not None])
    return {
        "volume_error": described({name: [abs(x) for x in values] for name, values in change.items()}),
        "strain": described(over_seeds(lambda r: r.cell_strain)),
        "volume_change": {
            "mean": float(np.mean([np.mean(values) for values in change.values()])),
            "per_structure": {name: float(np.mean(values)) for name, values in change.items()},
        },
        "pressure_at_dft": {"mean": float(pressures.mean()), "std": float(pressures.std())}
        if len(pressures)
        else None,
    }


def path_recorder(relaxer: Relaxer, num_steps: int) -> Callable[[Theta, Pair], dict[str, list[float]]]:
    """Build a host function that follows one relaxation: Delta Q and largest force at every step.

    Args:
        relaxer: the relaxation.
        num_steps: largest number of steps.

    Returns:
        (theta, pair) -> {"delta_q": [...] sqrt(u)*angstrom, "max_force": [...] eV/angstrom}, one value per step made.
    """
    run = jax.jit(
        unroll(relaxer, num_steps, record=lambda state, info: path(state, info) | {"cell": state.cell})
    )

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def distances(positions: Positions, cell: Cell, pair: Pair) -> Scalar:
        if pair.relaxed_cell is None:
            return losses.delta_q(positions, pair.relaxed, pair.system)
        return losses.delta_q_in_cell(positions, cell, pair.relaxed, pair.relaxed_cell, pair.system)

    def follow(theta: Theta, pair: Pair) -> dict[str, list[float]]:
        state, system = relaxer.init(theta, pair.initial, pair.system), pair.system
        followed: dict[str, list[float]] = {"delta_q": [], "max_force": []}
        for _ in range(num_steps):
            result = run(theta, state, system)
            made = int(result.state.steps - state.steps)
            followed["delta_q"] += np.asarray(
                distances(result.trace["positions"], result.trace["cell"], pair)
            )[:made].tolist()
            followed["max_force"] += np.asarray(result.trace["max_force"])[:made].tolist()
            if int(result.outcome) != Outcome.STALE_NEIGHBORS:
                break
            state, system = rebuild(result.state, system)
        return followed

    return follow
