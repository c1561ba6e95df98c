"""From settings and data to what the stages of training share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bptt_relax import losses
from bptt_relax._types import Params, Positions, Scalar
from bptt_relax.finetuning.cases import Cases
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.differentiation import choose
from bptt_relax.finetuning.forgetting import chemistry
from bptt_relax.finetuning.measure import Ruler
from bptt_relax.finetuning.programs import Programs, Remedies
from bptt_relax.finetuning.settings import FineTuningSettings
from bptt_relax.finetuning.stages import Bench
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.potentials import Potential, trainable
from bptt_relax.relax import Theta, UpdateRule
from bptt_relax.systems import System
from bptt_relax.training import DistanceFn, record
from bptt_relax.units import parse_bytes


def make_programs(
    settings: FineTuningSettings,
    potential: Potential,
    params: Params,
    rule: UpdateRule,
    train: Sequence[Relaxation],
) -> Programs:
    """The objectives that the settings ask for.

    Args:
        settings: everything.
        potential: the model's functions.
        params: of the pretrained model.
        rule: update rule.
        train: to learn from.
    """
    bptt = settings.bptt
    return Programs(
        potential=potential,
        rule=rule,
        differentiation=choose(bptt.adjoint, settings.relaxation),
        huber_delta=settings.force_matching.huber_delta,
        anchor=Theta(params, rule.hyper),
        anchor_weight=bptt.anchor_weight,
        distance=DISTANCES[bptt.distance],
        softening=bptt.softening,
        cell_weight=bptt.cell_weight,
        stress_weight=settings.force_matching.stress_weight,
        force_weight=bptt.force_weight if any(r.forces is not None for r in train) else 0.0,
        remedies=Remedies(
            replay=record(potential, params, chemistry(train)) if settings.replay.weight else (),
            replay_weight=settings.replay.weight,
            # Data without forces has no force matching to weigh against: its usual weight takes the place.
            replay_weight_bptt=settings.replay.weight * bptt.force_weight,
            replay_batch=settings.replay.batch_size,
            rank=settings.parameters.rank,
        ),
    )


def make_bench(
    corpus: Corpus, settings: FineTuningSettings, programs: Programs, cases: Cases, ruler: Ruler
) -> Bench:
    """Everything the stages share.

    Args:
        corpus: relaxations and their split.
        settings: everything else.
        programs: from `make_programs`, of these settings or of some that compile to the same.
        cases: how relaxations are prepared.
        ruler: measures models.

    Raises:
        InputError: the settings name parameters that the model does not have, or leave none to train.
    """
    bptt, chosen, pretrained = settings.bptt, settings.parameters, programs.anchor
    return Bench(
        programs=programs,
        trainable=Theta(
            trainable(pretrained.potential, freeze=chosen.freeze, train_only=chosen.train_only),
            jax.tree.map(lambda _: bptt.learn_rule, pretrained.rule),
        ),
        learn_potential=bptt.learn_potential,
        cases=cases,
        ruler=ruler,
        train=corpus.select(corpus.split.train),
        validation=corpus.split.validation,
        on_event=lambda event: None,
        should_stop=lambda: False,
        memory_budget=parse_bytes(settings.memory_budget) if settings.memory_budget else None,
    )


def _mean_mass_distance(positions: Positions, reference: Positions, system: System) -> Scalar:
    """Delta Q if every atom had the mean mass."""
    return jnp.sqrt(jnp.sum(system.masses)) * losses.rmsd(positions, reference, system)


DISTANCES: dict[str, DistanceFn] = {"delta_q": losses.delta_q, "rmsd": _mean_mass_distance}
