"""The three stages every model goes through: pretrained, force matching (the control), BPTT."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp

from bptt_relax import relax, trees
from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Scalar
from bptt_relax.analysis import Extremes, MemoryPlan, Stability, hessian_extremes, stability
from bptt_relax.finetuning import cases as casing
from bptt_relax.finetuning.measure import Ruler
from bptt_relax.finetuning.programs import CELL_FACTOR, Programs
from bptt_relax.finetuning.settings import BpttSettings, ForceMatchingSettings, RelaxationSettings
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.potentials import Potential
from bptt_relax.relax import Relaxation as Relaxer
from bptt_relax.relax import Theta, UpdateRule
from bptt_relax.systems import Pair
from bptt_relax.training import LabelledFrame, Objective, Stage, StageResult, fine_tuning, fit, low_rank
from bptt_relax.units import EV_PER_A3_IN_GPA

FRAMES_PER_UNROLL = 4
"""Ionic steps whose forces are matched along with each unroll; they cost a tenth of it."""


def make_rule(settings: RelaxationSettings) -> UpdateRule:
    """The update rule that the settings name: in the paper's frame momentum on an annealed step, capped."""
    scales = [SCALES[name](settings) for name in settings.scales]
    return relax.chain(*scales, RULES[settings.rule](settings), relax.cap_displacement(settings.cap))


SCALES: dict[str, Callable[[RelaxationSettings], UpdateRule]] = {
    "element": lambda settings: relax.scale_by_element(),
    "step": lambda settings: relax.scale_by_step(settings.train_steps),
}
RULES: dict[str, Callable[[RelaxationSettings], UpdateRule]] = {
    "momentum": lambda s: relax.momentum(s.step_size, s.decay, annealing=s.annealing, mix=s.mix),
    "descent": lambda s: relax.descent(s.step_size, annealing=s.annealing),
    "fire": lambda s: relax.fire(largest_step=None),
}


def make_cell_relaxation(
    potential: Potential, rule: UpdateRule, settings: RelaxationSettings, *, pressure: float = 0.0
) -> Relaxer:
    """The relaxation of positions and cell that is evaluated, under an external pressure, eV/angstrom^3."""
    return relax.variable_cell_relaxation(
        potential,
        rule,
        cell_factor=CELL_FACTOR,
        scalar_pressure=pressure,
        force_tolerance=settings.force_tolerance,
        stress_tolerance=settings.stress_tolerance / EV_PER_A3_IN_GPA,
    )


def check_step_size(potential: Potential, rule: UpdateRule, theta: Theta, pairs: Iterable[Pair]) -> Stability:
    """The step size against the stiffest of the reference structures: beyond its limit gradients explode.

    Args:
        potential: the model's functions.
        rule: update rule.
        theta: the model.
        pairs: whose reference structures are looked at.
    """
    relaxation = relax.relaxation(potential, rule)

    def at_reference(pair: Pair) -> Extremes:
        cell = pair.system.cell if pair.relaxed_cell is None else pair.relaxed_cell
        system = pair.system._replace(cell=cell)
        return hessian_extremes(relaxation, theta, pair.relaxed, system, num_products=12)

    extremes, pairs = jax.jit(at_reference), list(pairs)
    largest = max(float(extremes(pair).largest) for pair in pairs)
    if not largest > 0:
        # Crystals of one atom: there is nothing but the cell, which elsewhere is softer than what binds the atoms.
        of_cell = jax.jit(lambda pair: _cell_curvature(relaxation, theta, pair))
        largest = max(float(of_cell(pair)) for pair in pairs)
    return stability(rule, theta.rule, largest)


def _cell_curvature(relaxation: Relaxer, theta: Theta, pair: Pair) -> Scalar:
    """Largest curvature of the energy along the deformation of the reference's cell, eV/angstrom^2.

    Of the atoms as they move with it, in the coordinates of the relaxation (`CELL_FACTOR`): C (V/n)^(1/3), for n atoms
    and elastic constants C.
    """
    cell = pair.system.cell if pair.relaxed_cell is None else pair.relaxed_cell

    @full_matmul
    def energy(L: Array) -> Scalar:
        F = jnp.eye(3, dtype=L.dtype) + L + 0.5 * L @ L
        return relaxation.evaluate(theta, pair.relaxed @ F.T, cell @ F.T, pair.system).energy

    second = jax.hessian(energy)(jnp.zeros((3, 3), cell.dtype)).reshape(9, 9)
    atoms = jnp.sum(pair.system.mask)
    spacing = jnp.cbrt(jnp.abs(jnp.linalg.det(cell)) / atoms)
    return jnp.linalg.eigvalsh(second)[-1] / (atoms * spacing**2)


@dataclass
class Bench:
    """Everything the stages share.

    Attributes:
        programs: the objectives.
        trainable: pytree of bools like theta, what may change; force matching never changes the rule.
        learn_potential: whether BPTT changes the potential.
        cases: how relaxations are prepared.
        ruler: measures models.
        train: to learn from.
        validation: names to choose the best model by.
        on_event: gets the training loop's events.
        should_stop: asked after every update.
        memory_budget: temporary memory that one gradient may take, bytes; no limit but the machine's when not
            given.
    """

    programs: Programs
    trainable: Theta
    learn_potential: bool
    cases: casing.Cases
    ruler: Ruler
    train: Sequence[Relaxation]
    validation: Sequence[str]
    on_event: Callable[[dict], None]
    should_stop: Callable[[], bool]
    memory_budget: float | None = None

    @cached_property
    def memory_plan(self) -> MemoryPlan | None:
        """How BPTT stores its steps within the budget; None without a budget."""
        if self.memory_budget is None:
            return None
        # One layout serves all structures, so any example is as large as the largest, but a free cell needs more.
        example = self.cases.pair(next(filter(changes_cell, self.train), self.train[0]))
        if self.programs.force_weight:
            batch = trees.stack([frame for _, frame in self.train_frames[:1] * FRAMES_PER_UNROLL])
            example = (example, batch)
        return self.programs.plan(self.memory_budget, example)

    @property
    def _structure_objective(self) -> Objective:
        plan = self.memory_plan
        return self.programs.structure() if plan is None else self.programs.structure(plan.adjoint)

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
        if self.programs.remedies.rank:
            theta, ordinary = self._factored(theta), low_rank.merge_theta
        result = fit(
            stage,
            theta,
            lambda theta: self.ruler.distance(
                ordinary(theta), self.validation, cell_weight=self.programs.cell_weight
            ),
            folder,
            on_event=self.on_event,
            should_stop=self.should_stop,
        )
        return StageResult(ordinary(result.theta), result.progress)

    def _factored(self, theta: Theta) -> Theta:
        """Theta with fresh factors: each stage adds an update of this rank to where it starts."""
        factored = low_rank.factor(theta.potential, self.programs.remedies.rank, self.trainable.potential)
        return theta._replace(potential=factored)

    def _trains(self, chosen: Theta) -> Theta:
        """Which leaves of what a stage trains may change; ``chosen`` is about ordinary weights."""
        if not self.programs.remedies.rank:
            return chosen
        return chosen._replace(
            potential=low_rank.factors_only(self._factored(self.programs.anchor).potential)
        )

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
            epochs: so many, see `Stage`.
            seconds: of training time instead.
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
        return Stage(name, self.programs.forces, optimizer, examples, epochs, seconds, settings.averaging)

    def bptt_stage(self, settings: BpttSettings, seed: int, *, seconds: float = float("inf")) -> Stage:
        """Learn where relaxations end, by backpropagation through them.

        Args:
            settings: of the stage.
            seed: of the order of training and of the starts.
            seconds: of training time instead of the epochs of ``settings``, see `Stage`.
        """
        chosen = self._trains(self.trainable)
        if not self.learn_potential:
            chosen = chosen._replace(potential=jax.tree.map(lambda _: False, chosen.potential))
        starts = casing.Starts(
            settings.from_initial, settings.from_ionic_step, settings.rattle, settings.rattle_strain
        )
        optimizer = fine_tuning(
            settings.learning_rate,
            trainable=chosen,
            num_updates=max(1, settings.epochs * len(self.train)),
            clip=settings.clip,
            factors=self._factors(settings),
        )
        examples = casing.bptt_examples(self.cases, self.train, starts, seed)
        if self.programs.force_weight:
            examples = casing.with_frames(examples, self.train_frames, FRAMES_PER_UNROLL, seed)
        examples = self._with_replay(examples, seed)
        return Stage(
            "bptt",
            self._structure_objective,
            optimizer,
            examples,
            settings.epochs,
            seconds,
            settings.averaging,
        )

    def _factors(self, settings: BpttSettings) -> Theta | None:
        """Learning rates as multiples of the potential's."""
        if not settings.rule_learning_rate:
            return None
        factor = settings.rule_learning_rate / settings.learning_rate
        theta = self.programs.anchor
        if self.programs.remedies.rank:
            theta = self._factored(theta)
        return Theta(jax.tree.map(lambda _: 1.0, theta.potential), jax.tree.map(lambda _: factor, theta.rule))

    def _with_replay(self, examples: casing.Examples, seed: int) -> casing.Examples:
        """Add to each example a batch of structures that the pretrained model knew."""
        if not self.programs.replays:
            return examples
        frames = [("replay", frame) for frame in self.programs.remedies.replay]
        # Another seed than that of the ionic steps, whose draws it would repeat.
        return casing.with_frames(examples, frames, self.programs.remedies.replay_batch, seed + 1_000_003)
