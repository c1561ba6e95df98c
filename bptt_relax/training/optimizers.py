"""Optax transformations for fine-tuning: clipped Adam on a schedule, with a mask of what trains."""

import jax
import optax

from bptt_relax._types import PyTree


def fine_tuning(
    learning_rate: float,
    *,
    trainable: PyTree,
    num_updates: int,
    warmup: int = 0,
    clip: float = 1.0,
    final_fraction: float = 0.1,
    factors: PyTree | None = None,
) -> optax.GradientTransformation:
    """Adam with global-norm clipping and a cosine schedule; what must not train gets no update.

    Args:
        learning_rate: at the top of the schedule.
        trainable: pytree of bools with the structure of theta.
        num_updates: length of the schedule; the rate stays at its end value afterwards.
        warmup: updates of linear warm-up.
        clip: largest global norm of the gradient.
        final_fraction: end value of the schedule as a fraction of ``learning_rate``.
        factors: pytree of numbers with the structure of theta, on the learning rate of each leaf; 1 when not given.

    Raises:
        ValueError: a number is out of range.
    """
    if learning_rate <= 0 or clip <= 0:
        raise ValueError(f"learning_rate and clip must be positive, got {learning_rate} and {clip}")
    if not 0 <= final_fraction <= 1:
        raise ValueError(f"final_fraction must lie between 0 and 1, got {final_fraction}")
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=learning_rate if warmup == 0 else 0.0,
        peak_value=learning_rate,
        warmup_steps=warmup,
        decay_steps=max(num_updates, warmup + 1),
        end_value=final_fraction * learning_rate,
    )
    # Frozen leaves are hidden from the clip as well: their gradients must not shrink the others.
    labels = jax.tree.map(lambda train: "train" if train else "frozen", trainable)
    adam = optax.multi_transform(
        {
            "train": optax.chain(optax.clip_by_global_norm(clip), optax.adam(schedule)),
            "frozen": optax.set_to_zero(),
        },
        labels,
    )
    if factors is None:
        return adam
    return optax.chain(
        adam,
        optax.stateless(lambda updates, _: jax.tree.map(lambda u, factor: factor * u, updates, factors)),
    )
