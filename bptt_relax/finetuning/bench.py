"""From settings and data to what the stages of training share."""

import jax

from bptt_relax._types import Params
from bptt_relax.finetuning.cases import Cases
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.forgetting import chemistry
from bptt_relax.finetuning.measure import Ruler
from bptt_relax.finetuning.settings import FineTuningSettings
from bptt_relax.finetuning.stages import Bench, Remedies
from bptt_relax.potentials import Potential, pretrained
from bptt_relax.relax import Theta, UpdateRule
from bptt_relax.training import record
from bptt_relax.units import parse_bytes


def make_bench(
    corpus: Corpus,
    settings: FineTuningSettings,
    potential: Potential,
    params: Params,
    rule: UpdateRule,
    cases: Cases,
    ruler: Ruler,
) -> Bench:
    """Everything the stages share, remedies against forgetting included.

    Args:
        corpus: relaxations and their split.
        settings: everything else.
        potential: the model's functions.
        params: of the pretrained model.
        rule: update rule.
        cases: how relaxations are prepared.
        ruler: measures models.

    Raises:
        InputError: the settings name parameters that the model does not have, or leave none to train.
    """
    train = corpus.select(corpus.split.train)
    bptt, chosen = settings.bptt, settings.parameters
    return Bench(
        potential=potential,
        trainable=Theta(
            pretrained.trainable(params, freeze=chosen.freeze, train_only=chosen.train_only),
            jax.tree.map(lambda _: bptt.learn_rule, rule.hyper),
        ),
        rule=rule,
        cases=cases,
        ruler=ruler,
        train=train,
        validation=corpus.split.validation,
        on_event=lambda event: None,
        should_stop=lambda: False,
        train_steps=settings.relaxation.train_steps,
        huber_delta=settings.force_matching.huber_delta,
        anchor=Theta(params, rule.hyper),
        anchor_weight=bptt.anchor_weight,
        softening=bptt.softening,
        force_weight=bptt.force_weight if any(r.forces is not None for r in train) else 0.0,
        memory_budget=parse_bytes(settings.memory_budget) if settings.memory_budget else None,
        remedies=Remedies(
            replay=record(potential, params, chemistry(train)) if settings.replay.weight else (),
            replay_weight=settings.replay.weight,
            # Data without forces has no force matching to weigh against: its usual weight takes the place.
            replay_weight_bptt=settings.replay.weight * bptt.force_weight,
            replay_batch=settings.replay.batch_size,
            rank=chosen.rank,
        ),
    )
