"""The optimizer of fine-tuning: what is clipped, and when."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bptt_relax.training import fine_tuning

DIRECTION = np.array([0.6, -0.8, 0.0])


def path(optimizer, gradients):
    """Parameters after each update, from zero."""
    params = jnp.zeros(3)
    state, found = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        found.append(np.asarray(params))
    return np.array(found)


@pytest.fixture
def optimizer():
    return fine_tuning(0.1, trainable=jnp.ones(3, bool), num_updates=10, clip=1.0)


def test_gradients_are_clipped_before_adam_sees_them(optimizer):
    """Adam divides by what it remembers: one huge gradient would stop it for a hundred updates."""
    steady = path(optimizer, [DIRECTION, DIRECTION, -DIRECTION])
    huge = path(optimizer, [DIRECTION, 1000 * DIRECTION, -DIRECTION])
    np.testing.assert_allclose(huge, steady, rtol=1e-12)


def test_gradients_below_the_clip_are_adams(optimizer):
    gradients = [0.5 * DIRECTION, 0.1 * DIRECTION, -0.9 * DIRECTION]
    adam = optax.adam(optax.cosine_decay_schedule(0.1, 10, alpha=0.1))
    np.testing.assert_allclose(path(optimizer, gradients), path(adam, gradients), rtol=1e-12)
