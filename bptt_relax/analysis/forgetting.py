"""What fine-tuning has changed where it was not meant to: the pretrained model against the tuned one.

The pretrained model is the reference, so no new calculation is needed, and its own error is the yardstick: two
independent errors add in quadrature, so a change of half that error makes the model about 12% worse, one as large as
it 41%. Below half is green, below one yellow, the rest red. A lost minimum or a hole in a repulsive wall
is red whatever its size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bptt_relax.analysis.probe import VOLUMES, Answers, Probe
from bptt_relax.units import EV_PER_A3_IN_GPA

LIGHTS = ("green", "yellow", "red")
GREEN_BELOW, RED_FROM = 0.5, 1.0
"""Changes in units of the pretrained model's own error."""
PUSHES = 1.0
"""Force from which two atoms of the pretrained model count as pushing each other apart, eV/angstrom."""
WEAK = 0.5
"""A pair that keeps less than this share of its repulsion is halfway to a hole: yellow."""

TYPICAL_ERRORS = (0.03, 0.07)
"""Of energies (eV/atom) and forces (eV/angstrom) where a model's own are not known: a universal potential's of the size
of CHGNet on held-out structures of the Materials Project."""

_BEYOND = 1e6


class EquationOfState(NamedTuple):
    """The minimum of an energy-volume curve.

    Attributes:
        volume: angstrom^3 per atom.
        bulk_modulus: GPa.
        energy: eV per atom.
    """

    volume: float
    bulk_modulus: float
    energy: float


def equation_of_state(volumes: np.ndarray, energies: np.ndarray) -> EquationOfState | None:
    """Fit a cubic in V^(-2/3) (third order Birch-Murnaghan); None where no minimum lies inside the volumes.

    Args:
        volumes: angstrom^3 per atom, ascending.
        energies: eV per atom.
    """
    if not np.all(np.isfinite(energies)):
        return None
    unit = float(np.mean(volumes))
    x = (volumes / unit) ** (-2 / 3)
    curve = np.polynomial.Polynomial.fit(x, energies, 3)
    slope, curvature = curve.deriv(), curve.deriv(2)
    roots = slope.roots()
    roots = roots[np.isreal(roots)].real
    inside = [r for r in roots if x.min() <= r <= x.max() and curvature(r) > 0]
    if not inside:
        return None
    at = min(inside, key=curve)
    volume = unit * at**-1.5
    # dE/dV = 0 leaves one term of the chain rule: B = V E'' = V E_xx (dx/dV)^2.
    bulk_modulus = volume * curvature(at) * (2 / 3 * at / volume) ** 2 * EV_PER_A3_IN_GPA
    return EquationOfState(float(volume), float(bulk_modulus), float(curve(at)))


def compare(
    probe: Probe, before: Answers, after: Answers, errors: tuple[float, float] = TYPICAL_ERRORS
) -> dict[str, Any]:
    """Block by block, what changed, as plain JSON.

    Args:
        probe: the questions.
        before: answers of the pretrained model.
        after: answers of the tuned one.
        errors: known error of the pretrained model in energies (eV/atom) and forces (eV/angstrom).

    Returns:
        ``light``, the worst of all, red where a minimum was lost; ``blocks``, each with mean ``change``, the ``scale``
        it is judged by, ``ratio`` of the two, ``light``, and the ``worst`` crystal with its change; ``minima_lost``;
        ``crystals``, one entry each. A block that the models say nothing about (energies of direct forces) is left out.
    """
    names = [crystal.formula for crystal in probe.crystals]
    states = [_states(probe, answers) for answers in (before, after)]
    lost = [name for name, b, a in zip(names, *states, strict=True) if b is not None and a is None]
    kept = [
        (i, b, a) for i, (b, a) in enumerate(zip(*states, strict=True)) if b is not None and a is not None
    ]
    blocks: dict[str, dict[str, Any]] = {}
    if kept:
        which = [names[i] for i, _, _ in kept]
        blocks["energy"] = _judge(which, [a.energy - b.energy for _, b, a in kept], errors[0])
        for quantity in ("volume", "bulk_modulus"):
            changes = [getattr(a, quantity) / getattr(b, quantity) - 1.0 for _, b, a in kept]
            scale = _own_error(probe, states[0], quantity)
            # Not every crystal's modulus was measured: without one there is nothing to judge by.
            if np.isfinite(scale):
                blocks[quantity] = _judge(which, changes, scale)
    if lost and "volume" in blocks:
        blocks["volume"]["light"] = "red"
    changes = [
        min(float(np.nan_to_num(np.mean(np.abs(a - b)), nan=_BEYOND)), _BEYOND)
        for b, a in zip(before.forces, after.forces, strict=True)
    ]
    blocks["forces"] = _judge(names, changes, errors[1])
    blocks["short_range"] = short_range(probe, before.repulsion, after.repulsion)
    crystals = {
        name: {"bonding": crystal.bonding, "force_change": change} | _state_json(b, a)
        for name, crystal, change, b, a in zip(names, probe.crystals, changes, *states, strict=True)
    }
    return {
        # Where every minimum was lost there is no block of the volume to say it.
        "light": "red" if lost else worst(block["light"] for block in blocks.values()),
        "blocks": blocks,
        "minima_lost": lost,
        "crystals": crystals,
    }


def short_range(probe: Probe, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Whether pairs that are pushed together still push back; arguments as `Answers.repulsion`.

    Only where the pretrained model is repulsive can repulsion be lost: elsewhere it has a hole of its own.
    """
    repulsive = before > PUSHES
    names = np.array(probe.pair_names)
    holes = np.any(repulsive & ~(after > 0), axis=1)
    asked = np.any(repulsive, axis=1)
    share = np.sum(np.where(repulsive, after, 0.0), axis=1) / np.maximum(
        np.sum(np.where(repulsive, before, 0.0), axis=1), 1e-12
    )
    share = np.where(np.isfinite(share), share, 0.0)[asked]
    known = names[asked]
    light = "green"
    if holes.any():
        light = "red"
    elif len(share) and share.min() < WEAK:
        light = "yellow"
    return {
        "light": light,
        "pairs": len(known),
        "holes": names[holes].tolist(),
        "weakest_share": float(share.min()) if len(share) else None,
        "weakest": str(known[np.argmin(share)]) if len(share) else None,
        "mean_share": float(share.mean()) if len(share) else None,
    }


def worst(lights) -> str:
    """The worst of several lights."""
    return max(lights, key=LIGHTS.index)


def over_seeds(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One entry for several comparisons: means of the changes, the worst light and the worst crystal.

    Args:
        found: of `compare`, one per seed, on one probe.
    """
    blocks = {}
    for name in found[0]["blocks"]:
        runs = [run["blocks"][name] for run in found if name in run["blocks"]]
        light = worst(run["light"] for run in runs)
        if name == "short_range":
            weakest = min(runs, key=lambda run: _or_one(run["weakest_share"]))
            holes = sorted({pair for run in runs for pair in run["holes"]})
            blocks[name] = weakest | {"light": light, "holes": holes}
            continue
        extreme = max(runs, key=lambda run: abs(run["worst_change"]))
        mean = {key: float(np.mean([run[key] for run in runs])) for key in ("change", "ratio")}
        blocks[name] = extreme | mean | {"light": light}
    return {
        "light": worst(run["light"] for run in found),
        "lights": [run["light"] for run in found],
        "blocks": blocks,
        "minima_lost": sorted({name for run in found for name in run["minima_lost"]}),
        "crystals": found[0]["crystals"],
    }


def _or_one(share: float | None) -> float:
    return 1.0 if share is None else share


def _judge(names: Sequence[str], changes: Sequence[float], scale: float) -> dict[str, Any]:
    """Mean absolute change against the pretrained model's own error."""
    # What is not finite is as bad as can be, but JSON has no infinity.
    signed = np.nan_to_num(np.asarray(changes, float), nan=_BEYOND, posinf=_BEYOND, neginf=-_BEYOND)
    sizes = np.abs(signed)
    change = float(np.mean(sizes))
    ratio = change / max(scale, 1e-12)
    light = "green" if ratio < GREEN_BELOW else "yellow" if ratio < RED_FROM else "red"
    at = int(np.argmax(sizes))
    return {
        "light": light,
        "change": change,
        "scale": float(scale),
        "ratio": float(ratio),
        "worst": names[at],
        "worst_change": float(signed[at]),
    }


def _states(probe: Probe, answers: Answers) -> list[EquationOfState | None]:
    volumes = probe.volumes / probe.num_atoms[:, None]
    return [equation_of_state(v, e) for v, e in zip(volumes, answers.energies, strict=True)]


def _own_error(probe: Probe, states: Sequence[EquationOfState | None], quantity: str) -> float:
    """Mean relative error of the pretrained model against measurement, its functional's error included."""
    errors = []
    for index, (crystal, state) in enumerate(zip(probe.crystals, states, strict=True)):
        measured = probe.volumes[index, len(VOLUMES) // 2] / probe.num_atoms[index]
        if quantity == "bulk_modulus":
            measured = crystal.bulk_modulus
        if state is not None and measured is not None:
            errors.append(abs(getattr(state, quantity) / measured - 1.0))
    return float(np.mean(errors)) if errors else float("nan")


def _state_json(before: EquationOfState | None, after: EquationOfState | None) -> dict[str, Any]:
    return {
        "pretrained": None if before is None else before._asdict(),
        "tuned": None if after is None else after._asdict(),
    }
