"""Optax transformations for fine-tuning: clipped Adam on a schedule, of what trains alone."""

import jax
import jax.numpy as jnp
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
        trainable: pytree like theta of bools, for whole leaves or for each number (`packing.like`).
        num_updates: length of the schedule; the rate stays at its end value afterwards.
        warmup: updates of linear warm-up.
        clip: largest global norm of the gradient.
        final_fraction: end value of the schedule as a fraction of ``learning_rate``.
        factors: pytree of numbers likewise, on the learning rate; 1 when not given.

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

    def only_trainable(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, train: jnp.where(train, leaf, jnp.zeros_like(leaf)), tree, trainable)

    def scaled(updates: PyTree) -> PyTree:
        if factors is None:
            return updates
        return jax.tree.map(lambda u, factor: jnp.asarray(factor, u.dtype) * u, updates, factors)

    return optax.chain(
        # Frozen numbers are hidden from the clip as well: their gradients must not shrink the others.
        optax.stateless(lambda updates, _: only_trainable(updates)),
        optax.clip_by_global_norm(clip),
        optax.adam(schedule),
        optax.stateless(lambda updates, _: scaled(only_trainable(updates))),
    )
