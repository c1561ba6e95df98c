"""What training compiles: the objectives, each built once, so that stages, seeds and variants share them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from bptt_relax import relax
from bptt_relax._types import PyTree
from bptt_relax.adjoints import Adjoint
from bptt_relax.analysis import MemoryPlan, plan_memory, temporary_bytes
from bptt_relax.finetuning.differentiation import Differentiation
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation, Theta, UpdateRule
from bptt_relax.training import (
    DistanceFn,
    Objective,
    ReplayFrame,
    agreement,
    by_cell,
    force_matching,
    low_rank,
    relaxed_structure,
    weighted_sum,
)
from bptt_relax.unrolling import unroll

CELL_FACTOR = "spacing"
"""An unroll is short: with ASE's own factor a cell of a hundred atoms would hardly have moved at its end."""


class Remedies(NamedTuple):
    """What keeps fine-tuning from changing more than it is asked to, beside the anchor and what is frozen.

    Attributes:
        replay: structures of other chemistry with what the pretrained model says about them.
        replay_weight: weight of agreeing with it in force matching, (eV/angstrom)^2 against as much; no replay where
            zero.
        replay_weight_bptt: the same in BPTT, sqrt(u)*angstrom per (eV/angstrom)^2.
        replay_batch: structures per update.
        rank: of the update of each matrix; 0 for updates of any form.
    """

    replay: Sequence[ReplayFrame] = ()
    replay_weight: float = 0.0
    replay_weight_bptt: float = 0.0
    replay_batch: int = 4
    rank: int = 0


NO_REMEDIES = Remedies()


@dataclass(frozen=True)
class Programs:
    """The objectives of the two kinds of stage.

    Attributes:
        potential: the model's functions.
        rule: update rule; its hyperparameters are data and may differ between those who share programs.
        differentiation: how relaxations are run and differentiated.
        huber_delta: of force matching, eV/angstrom.
        stress_weight: of force matching, in frames with a stress.
        anchor: the pretrained model.
        anchor_weight: weight of staying close to its forces.
        distance: from where a relaxation ends to its reference.
        cell_weight: weight of the strain of the cell in the distance, where it is relaxed too.
        softening: distance below which the loss is quadratic, sqrt(u)*angstrom.
        force_weight: weight of force matching within BPTT.
        remedies: against forgetting.
    """

    potential: Potential
    rule: UpdateRule
    differentiation: Differentiation
    huber_delta: float
    stress_weight: float
    anchor: Theta
    anchor_weight: float
    distance: DistanceFn
    cell_weight: float
    softening: float
    force_weight: float
    remedies: Remedies = NO_REMEDIES
    _chains: dict[Adjoint, Objective] = field(default_factory=dict, repr=False)

    @cached_property
    def forces(self) -> Objective:
        """Forces of ionic steps."""
        return self._with_remedies(self._forces, self.remedies.replay_weight)

    @cached_property
    def _forces(self) -> Objective:
        return force_matching(self.potential, delta=self.huber_delta, stress_weight=self.stress_weight)

    def structure(self, adjoint: Adjoint | None = None) -> Objective:
        """Where relaxations end. Where memory runs out, the next leaner adjoint takes over.

        Args:
            adjoint: the first to try, one of those in ``differentiation``, by default the first of them.
        """
        adjoints = self.differentiation.adjoints
        adjoint = adjoints[0] if adjoint is None else adjoint
        if adjoint not in self._chains:
            objective = None
            for leaner in reversed(adjoints[adjoints.index(adjoint) :]):
                objective = self._structures[leaner]._replace(leaner=objective)
            assert objective is not None
            self._chains[adjoint] = self._with_remedies(objective, self.remedies.replay_weight_bptt)
        return self._chains[adjoint]

    def plan(self, budget: float, example: PyTree) -> MemoryPlan:
        """How BPTT stores its steps within so many bytes, by compiling it for an example."""

        def measure(adjoint: Adjoint) -> float:
            return temporary_bytes(self._structures[adjoint].value_and_grad, self.anchor, example)

        return plan_memory(budget, self.differentiation.adjoints, measure)

    @cached_property
    def _structures(self) -> dict[Adjoint, Objective]:
        """One for each way to store the steps."""
        how = self.differentiation
        given, free = relax.relaxation(self.potential, self.rule, force_tolerance=how.force_tolerance), None
        if "stress" in self.potential.predicts and not any(a.needs_fixed_cell for a in how.adjoints):
            free = relax.variable_cell_relaxation(self.potential, self.rule, cell_factor=CELL_FACTOR)
        found = {}
        for adjoint in how.adjoints:
            structure = self._end(given, adjoint)
            if free is not None:
                structure = by_cell(structure, self._end(free, adjoint))
            if self.force_weight:
                structure = weighted_sum(structure, self._forces, self.force_weight)
            found[adjoint] = structure._replace(label=str(adjoint))
        return found

    def _end(self, relaxation: Relaxation, adjoint: Adjoint) -> Objective:
        """Where this relaxation ends."""
        return relaxed_structure(
            relaxation,
            unroll(relaxation, self.differentiation.num_steps, adjoint),
            self.potential,
            distance=self.distance,
            anchor=self.anchor.potential,
            anchor_weight=self.anchor_weight,
            softening=self.softening,
            cell_weight=self.cell_weight,
        )

    def _with_remedies(self, objective: Objective, replay_weight: float) -> Objective:
        """An objective with replay, and on factors where the rank of updates is limited."""
        if self.replays:
            replay = agreement(self.potential, delta=self.huber_delta)
            objective = weighted_sum(objective, replay, replay_weight)
        return low_rank.on_factors(objective) if self.remedies.rank else objective

    @property
    def replays(self) -> bool:
        """Whether each example comes with structures that the pretrained model knew."""
        return bool(self.remedies.replay_weight and self.remedies.replay)
