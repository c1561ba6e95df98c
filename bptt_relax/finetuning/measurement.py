"""What a model does on one structure, and the numbers over structures and seeds that results.json holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter

import numpy as np

from bptt_relax.finetuning.statistics import geometric_mean, mean_interval
from bptt_relax.training import Relaxed


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


def summarize(runs: Sequence[Mapping[str, Measurement]]) -> dict:
    """Numbers of one stage over seeds, as results.json holds them.

    Args:
        runs: one mapping of structure -> measurement per seed.

    Returns:
        delta_q with mean, geometric mean (of the per-structure means) and per-structure values, shares and errors;
        ``not_converged``, for how many seeds by structure, and the mean of what converged alone; ``cell`` where some
        cells were relaxed too.
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
        return mean_of_known([x for x in found if x is not None])

    converged = [run[name].relaxed.delta_q for run in runs for name in names if run[name].relaxed.converged]
    failed = {name: sum(not run[name].relaxed.converged for run in runs) for name in names}
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
        "not_converged": {name: count for name, count in failed.items() if count},
        "converged_only": {"delta_q": mean_of_known(converged), "count": len(converged)},
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


def mean_of_known(values: Sequence[float] | np.ndarray) -> float | None:
    """Mean of those that are finite; None where none is."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else None
