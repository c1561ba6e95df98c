"""The three stages every model goes through: pretrained, force matching (the control), BPTT."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax

from bptt_relax import relax, trees
from bptt_relax.adjoints import Adjoint
from bptt_relax.analysis import (
    FASTEST_FIRST,
    Plan,
    Stability,
    adjoint_name,
    hessian_extremes,
    plan_measured,
    stability,
    temporary_bytes,
)
from bptt_relax.finetuning import cases as casing
from bptt_relax.finetuning.measure import Ruler
from bptt_relax.finetuning.settings import BpttSettings, ForceMatchingSettings, RelaxationSettings
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.potentials import Potential
from bptt_relax.relax import Theta, UpdateRule
from bptt_relax.systems import Pair
from bptt_relax.training import (
    LabelledFrame,
    Objective,
    ReplayFrame,
    Stage,
    StageResult,
    agreement,
    fine_tuning,
    fit,
    force_matching,
    low_rank,
    relaxed_structure,
    weighted_sum,
)
from bptt_relax.unrolling import unroll

FRAMES_PER_UNROLL = 4
"""Ionic steps whose forces are matched along with each unroll; they cost a tenth of it."""


def make_rule(settings: RelaxationSettings) -> UpdateRule:
    """The paper's frame: momentum on an annealed step, capped."""
    step = relax.momentum(settings.step_size, settings.decay, annealing=settings.annealing, mix=settings.mix)
    return relax.chain(step, relax.cap_displacement(settings.cap))


def check_step_size(potential: Potential, rule: UpdateRule, theta: Theta, pairs: Iterable[Pair]) -> Stability:
    """The step size against the stiffest of the reference structures: beyond its limit gradients explode.

    Args:
        potential: the model's functions.
        rule: update rule.
        theta: the model.
        pairs: whose reference structures are looked at.
    """
    relaxation = relax.relaxation(potential, rule)
    extremes = jax.jit(
        lambda pair: hessian_extremes(relaxation, theta, pair.relaxed, pair.system, num_products=12)
    )
    return stability(rule, theta.rule, max(float(extremes(pair).largest) for pair in pairs))


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


@dataclass
class Bench:
    """Everything the stages share.

    Attributes:
        potential: the model's functions.
        trainable: pytree of bools like theta, what BPTT may change; force matching never changes the rule.
        rule: update rule.
        cases: how relaxations are prepared.
        ruler: measures models.
        train: to learn from.
        validation: names to choose the best model by.
        on_event: gets the training loop's events.
        should_stop: asked after every update.
        train_steps: length of the unroll in training.
        huber_delta: of force matching, eV/angstrom.
        anchor: the pretrained model.
        anchor_weight: weight of staying close to its forces.
        softening: Delta Q below which the loss is quadratic, sqrt(u)*angstrom.
        force_weight: weight of force matching within BPTT.
        memory_budget: temporary memory that one gradient may take, bytes; no limit but the machine's when not
            given.
        remedies: against forgetting.
    """

    potential: Potential
    trainable: Theta
    rule: UpdateRule
    cases: casing.Cases
    ruler: Ruler
    train: Sequence[Relaxation]
    validation: Sequence[str]
    on_event: Callable[[dict], None]
    should_stop: Callable[[], bool]
    train_steps: int
    huber_delta: float
    anchor: Theta
    anchor_weight: float
    softening: float
    force_weight: float
    memory_budget: float | None = None
    remedies: Remedies = NO_REMEDIES

    @cached_property
    def force_objective(self) -> Objective:
        """Forces of ionic steps; built once, so that all stages and seeds share one compilation."""
        return self._with_remedies(self._forces, self.remedies.replay_weight)

    @cached_property
    def _forces(self) -> Objective:
        return force_matching(self.potential, delta=self.huber_delta)

    @cached_property
    def structure_objective(self) -> Objective:
        """Where relaxations end; built once, likewise. Where memory runs out, the next leaner adjoint takes over."""
        plan = self.memory_plan
        first = 0 if plan is None else FASTEST_FIRST.index(plan.chosen.adjoint)
        objective = None
        for adjoint in reversed(FASTEST_FIRST[first:]):
            objective = self._structure_objectives[adjoint]._replace(leaner=objective)
        assert objective is not None
        return self._with_remedies(objective, self.remedies.replay_weight_bptt)

    def _with_remedies(self, objective: Objective, replay_weight: float) -> Objective:
        """An objective with replay, and on factors where the rank of updates is limited."""
        if self._replays:
            replay = agreement(self.potential, delta=self.huber_delta)
            objective = weighted_sum(objective, replay, replay_weight)
        return low_rank.on_factors(objective) if self.remedies.rank else objective

    @property
    def _replays(self) -> bool:
        return bool(self.remedies.replay_weight and self.remedies.replay)

    @cached_property
    def memory_plan(self) -> Plan | None:
        """How BPTT stores its steps within the budget, by compiling it; None without a budget."""
        if self.memory_budget is None:
            return None
        # One layout serves all structures, so any example is as large as the largest.
        example = self.cases.pair(self.train[0])
        if self.force_weight:
            batch = trees.stack([frame for _, frame in self.train_frames[:1] * FRAMES_PER_UNROLL])
            example = (example, batch)

        def measure(adjoint: Adjoint) -> float:
            return temporary_bytes(self._structure_objectives[adjoint].value_and_grad, self.anchor, example)

        return plan_measured(self.memory_budget, FASTEST_FIRST, measure)

    @cached_property
    def _structure_objectives(self) -> dict[Adjoint, Objective]:
        """One for each way to store the steps."""
        relaxation = relax.relaxation(self.potential, self.rule)
        found = {}
        for adjoint in FASTEST_FIRST:
            structure = relaxed_structure(
                relaxation,
                unroll(relaxation, self.train_steps, adjoint),
                self.potential,
                anchor=self.anchor.potential,
                anchor_weight=self.anchor_weight,
                softening=self.softening,
            )
            if self.force_weight:
                structure = weighted_sum(structure, self._forces, self.force_weight)
            found[adjoint] = structure._replace(label=adjoint_name(adjoint))
        return found

    @cached_property
    def train_frames(self) -> list[tuple[str, LabelledFrame]]:
        """Every ionic step to learn from, with the name of its relaxation; prepared once."""
        labelled = [r for r in self.train if r.forces is not None]
        return [(r.name, frame) for r in labelled for frame in self.cases.frames(r)]

    @property
    def has_forces(self) -> bool:
        """Whether there is anything to match forces on."""
        return any(r.forces is not None for r in self.train)

    def num_force_batches(self, settings: ForceMatchingSettings) -> int:
        """Updates in one epoch of force matching."""
        return len(self.train_frames) // self._batch_size(settings)

    def _batch_size(self, settings: ForceMatchingSettings) -> int:
        return min(settings.batch_size, len(self.train_frames))

    def fit(self, stage: Stage, theta: Theta, folder: Path) -> StageResult:
        """Run one stage; the best model on the validation set wins, the starting model being a candidate."""
        ordinary: Callable[[Theta], Theta] = lambda theta: theta  # noqa: E731
        if self.remedies.rank:
            theta, ordinary = self._factored(theta), low_rank.merge_theta
        result = fit(
            stage,
            theta,
            lambda theta: self.ruler.delta_q(ordinary(theta), self.validation),
            folder,
            on_event=self.on_event,
            should_stop=self.should_stop,
        )
        return StageResult(ordinary(result.theta), result.progress)

    def _factored(self, theta: Theta) -> Theta:
        """Theta with fresh factors: each stage adds an update of this rank to where it starts."""
        factored = low_rank.factor(theta.potential, self.remedies.rank, self.trainable.potential)
        return theta._replace(potential=factored)

    def _trains(self, chosen: Theta) -> Theta:
        """Which leaves of what a stage trains may change; ``chosen`` is about ordinary weights."""
        if not self.remedies.rank:
            return chosen
        return chosen._replace(potential=low_rank.factors_only(self._factored(self.anchor).potential))

    def force_matching_stage(
        self,
        settings: ForceMatchingSettings,
        seed: int,
        *,
        name: str = "force_matching",
        epochs: int,
        seconds: float = float("inf"),
    ) -> Stage:
        """Match the forces of every ionic step.

        Args:
            settings: of the stage.
            seed: of the order of training.
            name: in metrics.
            epochs: at most this many.
            seconds: stop after this much training time.
        """
        examples = casing.force_examples(self.train_frames, self._batch_size(settings), seed)
        examples = self._with_replay(examples, seed)
        frozen_rule = jax.tree.map(lambda _: False, self.trainable.rule)
        optimizer = fine_tuning(
            settings.learning_rate,
            trainable=self._trains(self.trainable._replace(rule=frozen_rule)),
            num_updates=max(1, epochs * self.num_force_batches(settings)),
            clip=settings.clip,
        )
        return Stage(name, self.force_objective, optimizer, examples, epochs, seconds, settings.averaging)

    def bptt_stage(self, settings: BpttSettings, seed: int) -> Stage:
        """Learn where relaxations end, by backpropagation through them.

        Args:
            settings: of the stage.
            seed: of the order of training and of the starts.
        """
        starts = casing.Starts(settings.from_initial, settings.from_ionic_step, settings.rattle)
        optimizer = fine_tuning(
            settings.learning_rate,
            trainable=self._trains(self.trainable),
            num_updates=max(1, settings.epochs * len(self.train)),
            clip=settings.clip,
        )
        examples = casing.bptt_examples(self.cases, self.train, starts, seed)
        if self.force_weight:
            examples = casing.with_frames(examples, self.train_frames, FRAMES_PER_UNROLL, seed)
        examples = self._with_replay(examples, seed)
        return Stage(
            "bptt",
            self.structure_objective,
            optimizer,
            examples,
            settings.epochs,
            averaging=settings.averaging,
        )

    def _with_replay(self, examples: casing.Examples, seed: int) -> casing.Examples:
        """Add to each example a batch of structures that the pretrained model knew."""
        if not self._replays:
            return examples
        frames = [("replay", frame) for frame in self.remedies.replay]
        # Another seed than that of the ionic steps, whose draws it would repeat.
        return casing.with_frames(examples, frames, self.remedies.replay_batch, seed + 1_000_003)
