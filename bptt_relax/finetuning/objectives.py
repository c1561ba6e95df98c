"""What training minimizes: frozen descriptions, from which alone the objectives are built and by which they are kept.

Whoever asks for a description that was asked for before gets the same compiled programs. Nothing that is not in a
description can change an objective.
"""

from typing import NamedTuple, Protocol

import jax.numpy as jnp

from bptt_relax import compilation, losses, relax
from bptt_relax._types import Params, Positions, Scalar
from bptt_relax.adjoints import Adjoint, named
from bptt_relax.finetuning.relaxation import CELL_FACTOR, RuleForm, build_rule, rule_form
from bptt_relax.finetuning.settings import RecipeSettings
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation
from bptt_relax.systems import System
from bptt_relax.training import (
    DistanceFn,
    EventFn,
    Gradients,
    Objective,
    agreement,
    by_cell,
    force_matching,
    low_rank,
    relaxed_structure,
)
from bptt_relax.unrolling import unroll

SOLVED_TO = 1e-3
"""Relative residual of the linear system behind an implicit gradient: far below the scatter from update to update."""


class Description(Protocol):
    """A hashable description of an objective."""

    def build(self, potential: Potential, anchor: Params) -> list[Objective]:
        """Ways to take its gradient, the fastest first.

        Args:
            potential: the model's functions.
            anchor: parameters of the pretrained model.
        """
        ...


class RelaxedEnds(NamedTuple):
    """Where relaxations end, against the reference.

    Attributes:
        rule: how they move.
        adjoint: its name, how they are differentiated.
        num_steps: largest number of displacements.
        force_tolerance: where a relaxation stops, eV/angstrom; 0 for never.
        step_size: angstrom^2/eV, for adjoints that take a step of their own at the end; 0 for the others.
        distance: from where a relaxation ends to its reference.
        softening: distance below which the loss is quadratic, sqrt(u)*angstrom.
        cell_weight: weight of the strain of the cell in the distance, where it is relaxed too.
        anchor_weight: weight of staying close to the pretrained forces.
        rank: of the update of each matrix; 0 for updates of any form.
        pressure: external, at which cells are relaxed, eV/angstrom^3.
    """

    rule: RuleForm
    adjoint: str
    num_steps: int
    force_tolerance: float
    step_size: float
    distance: str
    softening: float
    cell_weight: float
    anchor_weight: float
    rank: int
    pressure: float = 0.0

    def build(self, potential: Potential, anchor: Params) -> list[Objective]:
        """See `Description.build`."""
        rule = build_rule(self.rule)
        given, free = relax.relaxation(potential, rule, force_tolerance=self.force_tolerance), None
        # An adjoint that looks at fixed points does not know those of a cell.
        if "stress" in potential.predicts and not self.force_tolerance:
            free = relax.variable_cell_relaxation(
                potential, rule, cell_factor=CELL_FACTOR, scalar_pressure=self.pressure
            )
        found = []
        arguments = {"on_unusable": "zero", "tolerance": SOLVED_TO}
        if self.force_tolerance:
            arguments |= {"force_tolerance": self.force_tolerance, "step_size": self.step_size}
        fastest = named(self.adjoint, **arguments)
        for adjoint in (fastest, *fastest.leaner):
            objective = self._end(given, adjoint, potential, anchor)
            if free is not None:
                objective = by_cell(objective, self._end(free, adjoint, potential, anchor))
            found.append(_updated_by(objective._replace(label=str(adjoint)), self.rank))
        return found

    def _end(
        self, relaxation: Relaxation, adjoint: Adjoint, potential: Potential, anchor: Params
    ) -> Objective:
        return relaxed_structure(
            relaxation,
            unroll(relaxation, self.num_steps, adjoint),
            potential,
            distance=DISTANCES[self.distance],
            anchor=anchor,
            anchor_weight=self.anchor_weight,
            softening=self.softening,
            cell_weight=self.cell_weight,
        )


class Forces(NamedTuple):
    """Forces of ionic steps, and their stresses where cells are relaxed.

    Attributes:
        huber_delta: where the loss turns linear, eV/angstrom.
        stress_weight: weight of the stress in frames that have one.
        rank: as in `RelaxedEnds`.
    """

    huber_delta: float
    stress_weight: float
    rank: int

    def build(self, potential: Potential, anchor: Params) -> list[Objective]:
        """See `Description.build`."""
        del anchor
        objective = force_matching(potential, delta=self.huber_delta, stress_weight=self.stress_weight)
        return [_updated_by(objective, self.rank)]


class Replay(NamedTuple):
    """What the pretrained model said about structures that it knew.

    Attributes:
        huber_delta: where the loss turns linear, eV/angstrom.
        rank: as in `RelaxedEnds`.
    """

    huber_delta: float
    rank: int

    def build(self, potential: Potential, anchor: Params) -> list[Objective]:
        """See `Description.build`."""
        del anchor
        return [_updated_by(agreement(potential, delta=self.huber_delta), self.rank)]


def relaxed_ends(settings: RecipeSettings, pressure: float = 0.0) -> RelaxedEnds:
    """The description of BPTT in these settings, with cells under this pressure (eV/angstrom^3)."""
    bptt, relaxation = settings.bptt, settings.relaxation
    # An adjoint that differentiates steps gets those of training. One that looks at where the relaxation ends means
    # nothing before it has: it gets as many as it takes.
    converges = named(bptt.adjoint).needs_convergence
    return RelaxedEnds(
        rule=rule_form(relaxation),
        adjoint=bptt.adjoint,
        num_steps=relaxation.test_steps if converges else relaxation.train_steps,
        force_tolerance=relaxation.force_tolerance if converges else 0.0,
        step_size=relaxation.step_size if converges else 0.0,
        distance=bptt.distance,
        softening=bptt.softening,
        cell_weight=bptt.cell_weight,
        anchor_weight=bptt.anchor_weight,
        rank=settings.parameters.rank,
        pressure=pressure,
    )


def forces(settings: RecipeSettings) -> Forces:
    """The description of force matching in these settings."""
    matching = settings.force_matching
    return Forces(matching.huber_delta, matching.stress_weight, settings.parameters.rank)


def replay(settings: RecipeSettings) -> Replay:
    """The description of replay in these settings."""
    return Replay(settings.force_matching.huber_delta, settings.parameters.rank)


class Objectives:
    """Gradients of objectives by their descriptions, each built once: stages, seeds and variants share them.

    Args:
        potential: the model's functions.
        anchor: parameters of the pretrained model.
        memory_budget: temporary memory that gradients may take, bytes; what the machine has when not given.
        on_event: told when memory runs out.
    """

    def __init__(
        self,
        potential: Potential,
        anchor: Params,
        memory_budget: float | None = None,
        on_event: EventFn = lambda event: None,
    ):
        self._potential, self._anchor = potential, anchor
        self._memory_budget, self._on_event = memory_budget, on_event
        self._known: dict[Description, Gradients] = {}

    def __call__(self, description: Description) -> Gradients:
        """Gradients of what is described."""
        if description not in self._known:
            compilation.make_room()
            self._known[description] = Gradients(
                description.build(self._potential, self._anchor),
                memory_budget=self._memory_budget,
                on_event=self._on_event,
            )
        return self._known[description]


def _updated_by(objective: Objective, rank: int) -> Objective:
    return low_rank.on_factors(objective) if rank else objective


def _mean_mass_distance(positions: Positions, reference: Positions, system: System) -> Scalar:
    """Delta Q if every atom had the mean mass."""
    return jnp.sqrt(jnp.sum(system.masses)) * losses.rmsd(positions, reference, system)


DISTANCES: dict[str, DistanceFn] = {"delta_q": losses.delta_q, "rmsd": _mean_mass_distance}
