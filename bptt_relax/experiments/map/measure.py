"""One model's map around one structure of the reference method."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax import losses, systems
from bptt_relax.analysis import LinearStep, linearized_step
from bptt_relax.batches import Bucket, Final, RelaxMany
from bptt_relax.experiments.map.config import MapSettings
from bptt_relax.finetuning.relaxation import make_rule
from bptt_relax.finetuning.settings import RelaxationSettings
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.potentials import Potential
from bptt_relax.relax import Theta, relaxation
from bptt_relax.systems import Structure
from bptt_relax.training.evaluation import SAME_BASIN

DIGITS = 6
"""Significant digits of the lists that are kept."""


class RelaxationMap:
    """Measures the maps of models, all with the same relaxation; everything is compiled once.

    Args:
        potential: the model's functions.
        references: all that will be measured.
        settings: of the relaxation.
        how: tolerances, rattles.
    """

    def __init__(
        self,
        potential: Potential,
        references: Sequence[Relaxation],
        settings: RelaxationSettings,
        how: MapSettings,
    ):
        starts = [start for r in references for start in (r.initial, r.relaxed, *_rattled(r, how))]
        self._spec, self._skin, self._how = potential.graph, settings.skin, how
        self._layout = systems.plan_layout(starts, potential.graph, skin=settings.skin)
        rule = make_rule(settings)
        to_end = relaxation(potential, rule, force_tolerance=how.tolerance)
        as_tested = relaxation(potential, rule, force_tolerance=settings.force_tolerance)
        self._linearize = linearized_step(relaxation(potential, rule))
        self._follow = RelaxMany(to_end, potential.graph, how.steps, skin=settings.skin, keep_path=True)
        self._relax = RelaxMany(as_tested, potential.graph, settings.test_steps, skin=settings.skin)
        self._delta_q = jax.jit(jax.vmap(losses.delta_q, in_axes=(0, None, None)))
        self._furthest = jax.jit(losses.max_displacement)

    def __call__(self, theta: Theta, reference: Relaxation) -> dict[str, Any]:
        """What results.json holds of one model and one structure, and the path that figures draw."""
        initial, relaxed = reference.initial, reference.relaxed
        path, at_rest = self._all(self._follow, theta, [initial, relaxed])
        end, own = path.structure, at_rest.structure
        here, there = self._linear(theta, relaxed), self._linear(theta, own)
        assert path.path is not None
        positions = path.path.positions
        to_reference, to_end = self._distances(positions, relaxed), self._distances(positions, end)
        return {
            "residual": _residual(here, relaxed),
            "reference": _contraction(here),
            "fixed_point": _contraction(there)
            | {
                "converged": at_rest.converged,
                "delta_q": float(self._distances(own.positions[None], relaxed)[0]),
                "max_displacement": self._max_displacement(own, relaxed),
            },
            "convergence": {
                "converged": path.converged,
                "to_reference": _rounded(to_reference),
                "to_end": _rounded(to_end),
                "same_basin": self._max_displacement(end, relaxed) < SAME_BASIN,
            },
            "basin": self._basin(theta, reference, own),
            "path": np.round(positions, 4).tolist(),
        }

    def _linear(self, theta: Theta, structure: Structure) -> LinearStep:
        positions, system = systems.prepare(structure, self._spec, self._layout, skin=self._skin)
        return self._linearize(theta, positions, system)

    def _all(self, relax, theta: Theta, starts: list[Structure]) -> list[Final]:
        bucket = Bucket(self._layout, tuple(range(len(starts))), work=1.0, padded=1.0)
        found = {final.index: final for final in relax(theta, starts, buckets=[bucket])}
        return [found[index] for index in range(len(starts))]

    def _distances(self, positions: np.ndarray, target: Structure) -> np.ndarray:
        """Delta Q of each of (T, n, 3) positions to a structure."""
        reference, system = systems.build_system(target, self._layout.num_atoms)
        padding = ((0, 0), (0, reference.shape[0] - positions.shape[1]), (0, 0))
        return np.asarray(
            self._delta_q(jnp.asarray(np.pad(positions, padding), reference.dtype), reference, system)
        )

    def _max_displacement(self, structure: Structure, target: Structure) -> float:
        size = self._layout.num_atoms
        reference, system = systems.build_system(target, size)
        return float(self._furthest(systems.build_system(structure, size)[0], reference, system))

    def _basin(self, theta: Theta, reference: Relaxation, own: Structure) -> list[dict[str, float]]:
        """Which share of rattled reference structures comes back to the reference, or to the model's own minimum."""
        starts = _rattled(reference, self._how)
        ends = [final.structure for final in self._all(self._relax, theta, starts)]
        found = []
        for index, amplitude in enumerate(self._how.rattles):
            group = ends[index * self._how.draws : (index + 1) * self._how.draws]
            back = [self._max_displacement(end, reference.relaxed) < SAME_BASIN for end in group]
            at_own = [self._max_displacement(end, own) < SAME_BASIN for end in group]
            found.append(
                {"rattle": amplitude, "to_reference": float(np.mean(back)), "to_own": float(np.mean(at_own))}
            )
        return found


def _rattled(reference: Relaxation, how: MapSettings) -> list[Structure]:
    return [
        rattled(reference.relaxed, amplitude, draw) for amplitude in how.rattles for draw in range(how.draws)
    ]


def rattled(structure: Structure, amplitude: float, draw: int) -> Structure:
    """A structure with normally distributed displacements, in the same directions for every amplitude."""
    name = int.from_bytes(structure.name.encode(), "big")
    noise = np.random.default_rng([name, draw]).normal(size=structure.positions.shape)
    moved = structure.positions + np.where(structure.free, amplitude * noise, 0.0)
    return structure._replace(name=f"{structure.name}+{amplitude:g}#{draw}", positions=moved)


def _residual(here: LinearStep, structure: Structure) -> dict[str, Any]:
    """How far the reference structure is from being a fixed point, and where along which mode the fixed point lies.

    Delta Q of the displacement that linear forces ask for: only where the map contracts does it mean anything.
    """
    displacement = np.einsum("m,mna->na", here.distance, here.modes)
    return {
        "max_force": here.max_force,
        "rms_force": float(np.sqrt(np.mean(here.residual**2))),
        "step": float(np.linalg.norm(here.step)),
        "linear_delta_q": float(np.sqrt(np.sum(structure.masses[:, None] * displacement**2))),
        "stiffness": _rounded(here.stiffness),
        "force": _rounded(np.abs(here.residual)),
    }


def _contraction(here: LinearStep) -> dict[str, float]:
    return {
        "radius": here.radius,
        "norm": here.norm,
        "rigid_radius": here.rigid_radius,
        "softest": float(here.stiffness[0]),
        "stiffest": float(here.stiffness[-1]),
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(values, float)]
