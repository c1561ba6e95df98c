"""One model tuned on one corpus: theta, relaxation, examples, objectives and evaluator, built in one place.

`variant` makes another trainer with other settings or data; what does not differ, above all compiled programs, is
shared between the two.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bptt_relax import compilation, distributed
from bptt_relax.analysis import Stability
from bptt_relax.batches import PredictMany
from bptt_relax.finetuning import bad_update, measurement, objectives, sampling
from bptt_relax.finetuning.batch_size import BatchChoice, as_device, choose_batch, describe_device
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.evaluator import Evaluator
from bptt_relax.finetuning.forgetting import chemistry
from bptt_relax.finetuning.measurement import Measurement
from bptt_relax.finetuning.objectives import Objectives
from bptt_relax.finetuning.preparation import IonicStep, Preparation, ionic_steps
from bptt_relax.finetuning.relaxation import EvaluationForm, evaluation_form, make_rule
from bptt_relax.finetuning.settings import (
    ForceMatchingSettings,
    ParameterSettings,
    RecipeSettings,
    RelaxationSettings,
    ReplaySettings,
)
from bptt_relax.finetuning.step_size import check_step_size
from bptt_relax.io.problems import safe_name
from bptt_relax.models import BaseModel
from bptt_relax.outcomes import why_unwritable
from bptt_relax.potentials import trainable
from bptt_relax.relax import Theta
from bptt_relax.runs.session import Session
from bptt_relax.training import (
    BadUpdate,
    Example,
    Gradients,
    Packed,
    Relaxed,
    ReplayFrame,
    Stage,
    StageResult,
    Term,
    fine_tuning,
    fit,
    like,
    low_rank,
    record,
)


class ForceMatching(NamedTuple):
    """Everything that a stage of force matching depends on beside corpus and pretrained model.

    Attributes:
        settings: of the stage.
        parameters: which train.
        replay: beside it.
        seed: of the order of training.
        epochs: so many, see `training.Stage`.
        seconds: of training time instead.
    """

    settings: ForceMatchingSettings
    parameters: ParameterSettings
    replay: ReplaySettings
    seed: int
    epochs: int
    seconds: float = math.inf

    def digest(self, corpus: Corpus) -> str:
        """Short, of this stage on these relaxations."""
        described = [getattr(part, "model_dump", lambda part=part: part)() for part in self]
        text = json.dumps([described, corpus.sha256, corpus.split], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Trainer:
    """Tunes one model on one corpus and measures it.

    Args:
        session: the run.
        corpus: relaxations and their split.
        settings: the recipe.
        base: what to start from.
        memory_budget: temporary memory that gradients may take, bytes; what the machine has when not given.
        shares_with: another trainer with the same base model, whose corpus holds every structure of this one.

    Raises:
        InputError: parameters to train that the potential does not have, once a stage is made.
    """

    def __init__(
        self,
        session: Session,
        corpus: Corpus,
        settings: RecipeSettings,
        base: BaseModel,
        *,
        memory_budget: float | None = None,
        shares_with: "Trainer | None" = None,
    ):
        self.session, self.corpus, self.settings, self.base = session, corpus, settings, base
        self.potential = base.potential
        self.train = corpus.select(corpus.split.train)
        self._root = self if shares_with is None else shares_with._root
        if shares_with is not None:
            self._device = shares_with._device
            self.predict = shares_with.predict
            self._preparations = shares_with._preparations
            self._evaluators = shares_with._evaluators
            self._objectives = shares_with._objectives
            return
        self._device = session.once(session.folder / "device.json", describe_device, as_device)
        self.predict = PredictMany(base.potential)
        self._preparations: dict[float, Preparation] = {}
        self._evaluators: dict[tuple[float, EvaluationForm], Evaluator] = {}
        self._objectives = Objectives(base.potential, base.params, memory_budget, session.event)

    def variant(self, settings: RecipeSettings, corpus: Corpus | None = None) -> "Trainer":
        """Another recipe, or another part of the corpus, with whatever it can share."""
        return Trainer(self.session, corpus or self.corpus, settings, self.base, shares_with=self)

    @property
    def preparation(self) -> Preparation:
        """Padding and neighbor lists, for the corpus that holds that of every variant."""
        skin = self.settings.relaxation.skin
        if skin not in self._preparations:
            self._preparations[skin] = Preparation(self._root.corpus.used, self.potential, skin)
        return self._preparations[skin]

    @cached_property
    def _trainable(self) -> Any:
        """Booleans like the parameters of the potential: what may change."""
        chosen = self.settings.parameters
        return trainable(self.base.params, freeze=chosen.freeze, train_only=chosen.train_only)

    def start(self, relaxation: RelaxationSettings | None = None) -> Theta:
        """The pretrained model with the rule of these settings, those of the trainer when not given."""
        return Theta(self.base.params, make_rule(relaxation or self.settings.relaxation).hyper)

    @property
    def pressure(self) -> float:
        """At which cells are relaxed in training and in testing, eV/angstrom^3: that of the data."""
        return next((r.pressure for r in self.corpus.used if self.preparation.moves_cell(r)), 0.0)

    def evaluator(
        self, relaxation: RelaxationSettings | None = None, pressure: float | None = None
    ) -> Evaluator:
        """Measures models that have the rule of these settings by relaxing as they say.

        Args:
            relaxation: those of the trainer when not given.
            pressure: external, where cells are relaxed, eV/angstrom^3; that of the data when not given.
        """
        relaxation = relaxation or self.settings.relaxation
        form = evaluation_form(relaxation)._replace(pressure=self.pressure if pressure is None else pressure)
        key = relaxation.skin, form
        if key not in self._evaluators:
            compilation.make_room()
            measured = [*self.corpus.split.validation, *self.corpus.held_out]
            self._evaluators[key] = Evaluator(
                self.preparation, self.corpus.select(measured), self.potential, form, self.predict
            )
        return self._evaluators[key]

    @cached_property
    def steps(self) -> list[IonicStep]:
        """Every ionic step to learn from."""
        return [step for r in self.train if r.forces is not None for step in ionic_steps(r)]

    @property
    def has_forces(self) -> bool:
        """Whether there is anything to match forces on."""
        return bool(self.steps)

    @cached_property
    def batch(self) -> BatchChoice:
        """How many relaxations an update of BPTT sees."""
        return choose_batch(self.settings.bptt, len(self.train), self._device)

    def check_step_size(self) -> Stability:
        """The step size against the stiffest training structure."""
        unique = {r.name: r for r in self.train}.values()
        pairs = [self.preparation.pair(r) for r in unique]
        rule = make_rule(self.settings.relaxation)
        return check_step_size(self.potential, self.predict, rule, self.start(), pairs)

    def compile_ahead(self) -> None:
        """Begin to compile, in the background, what training and evaluation need; what is needed first comes first."""
        theta = self._factored(self.start())
        evaluator, share_of = self.evaluator(), distributed.processes().share_of

        def relaxed_ends() -> None:
            term = self._ends().gradients
            for count, relaxation in self._one_of_each_shape():
                example = Example(relaxation.name, self.preparation.pair(relaxation))
                term.prepare(theta, example, share_of(min(count, self.batch.size)))

        def forces() -> None:
            matching, beside = self.settings.force_matching, self.settings.bptt.force_weight
            if self.has_forces and (matching.epochs or beside):
                term = self._gradients(objectives.forces(self.settings))
                count = max(matching.batch_size, self.batch.ionic_steps if beside else 0)
                term.prepare(
                    theta, sampling.labelled(self.preparation, self.steps[0]).made(), share_of(count)
                )

        def predictions() -> None:
            for _, relaxation in self._one_of_each_shape():
                pair = self.preparation.pair(relaxation)
                self.predict.prepare(self.base.params, (pair.initial, pair.system))

        bptt_first = self.settings.bptt.start_from == "pretrained" or not self.has_forces
        if bptt_first:
            relaxed_ends()
        predictions()
        evaluator.prepare(self.start(), list(evaluator.relaxations))
        forces()
        if not bptt_first:
            relaxed_ends()

    def match_forces(
        self,
        how: ForceMatching,
        label: str,
        *,
        start: Theta | None = None,
        folder: Path | None = None,
        name: str = "force_matching",
    ) -> StageResult:
        """Match the forces of every ionic step.

        Args:
            how: everything that decides it.
            label: for the progress display.
            start: the model to continue; the pretrained one when not given.
            folder: for its checkpoints; one that all who match forces alike share when not given.
            name: of the stage, in metrics.
        """
        stage = self.force_matching_stage(how, name=name)
        folder = folder or self.session.folder / "force_matching" / how.digest(self.corpus)
        updates = None if math.isfinite(how.seconds) else how.epochs * self.force_updates_per_epoch(how)
        recipe = self.settings.model_copy(
            update={
                "force_matching": how.settings,
                "parameters": how.parameters,
                "replay": how.replay,
                "seed": how.seed,
            }
        )
        return self._fit(stage, start or self.start(), folder, label, updates, recipe)

    def force_matching_stage(self, how: ForceMatching, *, name: str = "force_matching") -> Stage:
        """The stage that `match_forces` runs."""
        settings = how.settings
        recipe = RecipeSettings(
            force_matching=settings, parameters=how.parameters, replay=how.replay, seed=how.seed
        )
        batch_size = min(settings.batch_size, len(self.steps))
        batches = sampling.batches_of_ionic_steps(self.preparation, self.steps, batch_size, how.seed)
        terms = [Term(self._gradients(objectives.forces(recipe)))]
        batches = self._with_replay(recipe, terms, batches, how.replay.weight, how.seed)
        return Stage(
            name,
            tuple(terms),
            fine_tuning(
                settings.learning_rate,
                trainable=self._may_change(how.parameters, learn_potential=True, learn_rule=False),
                num_updates=max(1, how.epochs * self.force_updates_per_epoch(how)),
                clip=settings.clip,
            ),
            batches,
            how.epochs,
            how.seconds,
            settings.averaging,
        )

    def force_updates_per_epoch(self, how: ForceMatching) -> int:
        """Of force matching."""
        return len(self.steps) // min(how.settings.batch_size, len(self.steps))

    def force_matching(self, seconds: float = math.inf) -> ForceMatching:
        """The stage of force matching of these settings."""
        s = self.settings
        return ForceMatching(
            s.force_matching, s.parameters, s.replay, s.seed, s.force_matching.epochs, seconds
        )

    def bptt(
        self, start: Theta, folder: Path, label: str, *, seconds: float = math.inf, name: str = "bptt"
    ) -> StageResult:
        """Learn where relaxations end, by backpropagation through them.

        Args:
            start: the model to continue.
            folder: for checkpoints.
            label: for the progress display.
            seconds: of training time instead of the epochs of the settings, see `training.Stage`.
            name: of the stage, in metrics.
        """
        stage = self.bptt_stage(seconds=seconds, name=name)
        updates = None if math.isfinite(seconds) else stage.epochs * self.updates_per_epoch
        return self._fit(stage, start, folder, label, updates, self.settings)

    def bptt_stage(self, *, seconds: float = math.inf, name: str = "bptt") -> Stage:
        """The stage that `bptt` runs."""
        settings, batch, seed = self.settings.bptt, self.batch, self.settings.seed
        starts = sampling.Starts(
            settings.from_initial, settings.from_ionic_step, settings.rattle, settings.rattle_strain
        )
        batches = sampling.batches_of_relaxations(self.preparation, self.train, starts, batch.size, seed)
        terms = [self._ends()]
        if settings.force_weight and self.has_forces:
            draw = sampling.random_ionic_steps(self.preparation, self.steps, batch.ionic_steps)
            batches = sampling.beside(batches, draw, seed)
            terms.append(Term(self._gradients(objectives.forces(self.settings)), settings.force_weight))
        # Data without forces has no force matching to weigh against: its usual weight takes the place.
        weight = self.settings.replay.weight * settings.force_weight
        batches = self._with_replay(self.settings, terms, batches, weight, seed)
        may_change = self._may_change(
            self.settings.parameters, learn_potential=settings.learn_potential, learn_rule=settings.learn_rule
        )
        return Stage(
            name,
            tuple(terms),
            fine_tuning(
                batch.learning_rate,
                trainable=may_change,
                num_updates=max(1, batch.epochs * self.updates_per_epoch),
                clip=settings.clip,
                factors=self._rate_factors(),
            ),
            batches,
            batch.epochs,
            seconds,
            settings.averaging,
            settings.validate_every,
        )

    @property
    def updates_per_epoch(self) -> int:
        """Of BPTT."""
        return math.ceil(len(self.train) / self.batch.size)

    def measure(
        self,
        theta: Theta,
        folder: Path,
        stage: str,
        label: str,
        *,
        names: Sequence[str] | None = None,
        evaluator: Evaluator | None = None,
    ) -> dict[str, Measurement]:
        """Relax structures with a model; what an interrupted run has measured is read back.

        Args:
            theta: the model.
            folder: keeps ``<stage>.json``.
            stage: that the model comes from.
            label: for the progress display.
            names: of relaxations; everything held out when not given.
            evaluator: measures; that of the settings when not given.

        Raises:
            Interrupted: between two structures; nothing is kept.
        """
        session, chosen, together = self.session, evaluator or self.evaluator(), distributed.processes()
        names = list(self.corpus.held_out if names is None else names)

        told: set[str] = set()

        def write_down(name: str, relaxed: Relaxed) -> None:
            session.metrics.write(
                {"event": "structure", "stage": stage, "structure": name, "delta_q": relaxed.delta_q}
            )
            told.add(name)

        def on_structure(name: str, relaxed: Relaxed) -> None:
            session.reporter.advance(structure=name, delta_q=relaxed.delta_q)
            write_down(name, relaxed)
            session.check_stop(stage)

        def make() -> dict:
            session.reporter.begin(label, together.share_of(len(names)), unit="structures")
            measured = session.timed("evaluation", lambda: chosen.measure(theta, names, on_structure))
            for name in [name for name in names if name not in told]:  # by other processes
                write_down(name, measured[name].relaxed)
            return measurement.to_json(measured)

        def read(found: dict) -> dict[str, Measurement]:
            measured = measurement.from_json(found)
            return {name: measured[name] for name in names}

        return session.once(folder / f"{stage}.json", make, read)

    def describe_memory(self) -> list[str]:
        """How the gradients of BPTT are taken, one line for each shape that was met."""
        gradients = self._ends().gradients
        return [gradients.describe(plan) for plan in gradients.plans]

    def _fit(
        self,
        stage: Stage,
        theta: Theta,
        folder: Path,
        label: str,
        total: int | None,
        recipe: RecipeSettings,
    ) -> StageResult:
        """Run one stage; the best model on the validation set wins, the starting model being a candidate."""
        rank = recipe.parameters.rank
        ordinary = low_rank.merge_theta if rank else lambda theta: theta
        evaluator, names = self.evaluator(), self.corpus.split.validation
        weight = self.settings.bptt.cell_weight
        self.session.reporter.begin(label, total, seconds=stage.seconds, unit="updates")
        result = self.session.timed(
            "training",
            lambda: fit(
                stage,
                self._factored(theta, rank),
                lambda theta: evaluator.distance(ordinary(theta), names, cell_weight=weight),
                folder,
                on_event=self.session.event,
                should_stop=self.session.stop,
                on_bad_updates=lambda update: self._keep(update, recipe, label),
            ),
        )
        return StageResult(ordinary(result.theta), result.progress)

    def _keep(self, update: BadUpdate, recipe: RecipeSettings, label: str) -> None:
        """Keep an update that could not be used, for `bad_update.repeat`."""
        name = safe_name(f"{label}-epoch-{update.epoch}-update-{update.number}")
        path = self.session.folder / "bad_updates" / f"{name}.safetensors"
        try:
            if not path.exists():
                bad_update.write(path, update, recipe, self.base, self.pressure)
        except OSError as error:
            if why_unwritable(error) is None:
                raise
            self.session.reporter.warn(f"no room for {path}")
            return
        self.session.reporter.warn(
            f"{update.in_a_row} updates in a row could not be used: `bptt-relax replay {path}` repeats the last"
        )

    def _gradients(self, description: objectives.Description) -> Gradients:
        return self._objectives(description)

    def _ends(self) -> Term:
        return Term(self._gradients(objectives.relaxed_ends(self.settings, self.pressure)))

    def _factored(self, theta: Theta, rank: int | None = None) -> Theta:
        """Theta with fresh factors: each stage adds an update of this rank to where it starts."""
        rank = self.settings.parameters.rank if rank is None else rank
        if not rank:
            return theta
        return theta._replace(potential=low_rank.factor(theta.potential, rank, self._trainable))

    def _may_change(self, chosen: ParameterSettings, *, learn_potential: bool, learn_rule: bool) -> Packed:
        """Booleans like what a stage trains, packed: what may change."""
        theta = self._factored(self.start(), chosen.rank)
        potential = low_rank.factors_only(theta.potential) if chosen.rank else self._trainable
        if not learn_potential:
            potential = jax.tree.map(lambda _: False, potential)
        return like(theta, Theta(potential, jax.tree.map(lambda _: learn_rule, theta.rule)))

    def _rate_factors(self) -> Packed | None:
        """Learning rates as multiples of the potential's."""
        own = self.settings.bptt.rule_learning_rate
        if not own:
            return None
        factor, theta = own / self.batch.learning_rate, self._factored(self.start())
        ones = jax.tree.map(lambda _: 1.0, theta.potential)
        return like(theta, Theta(ones, jax.tree.map(lambda _: factor, theta.rule)))

    def _with_replay(
        self,
        recipe: RecipeSettings,
        terms: list[Term],
        batches: sampling.Batches,
        weight: float,
        seed: int,
    ) -> sampling.Batches:
        """Add structures that the pretrained model knew to the terms and to each batch."""
        if not (weight and self._replayed):
            return batches
        terms.append(Term(self._gradients(objectives.replay(recipe)), weight))
        draw = sampling.random_replay(self._replayed, recipe.replay.batch_size)
        # Another seed than that of the ionic steps, whose draws it would repeat.
        return sampling.beside(batches, draw, seed + 1_000_003)

    @cached_property
    def _replayed(self) -> list[ReplayFrame]:
        """Structures of other chemistry with what the pretrained model says about them."""
        return record(self.potential, self.base.params, chemistry(self.train))

    def _one_of_each_shape(self):
        """Training relaxations, one of each shape, and how many there are of it."""
        alike: dict[Any, list] = {}
        for relaxation in self.train:
            shape = self.preparation.layout(relaxation.name), self.preparation.moves_cell(relaxation)
            alike.setdefault(shape, []).append(relaxation)
        return [(len(members), members[0]) for members in alike.values()]
