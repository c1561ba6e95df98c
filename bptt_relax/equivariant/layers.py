"""Layers of features that rotate with the structure: mixing, normalizing and activating their channels."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from bptt_relax._types import Array
from bptt_relax.equivariant.tensor_products import Features

SILU_NORM = 0.59645772
"""Root mean square of silu over a standard normal distribution, as e3nn computes it in single precision (a millionth
less than the integral): published weights were trained with this number."""


def silu(x: Array) -> Array:
    """The input times its logistic function, through tanh: on CPU half the price of an exponential and a division."""
    return x * (0.5 + 0.5 * jnp.tanh(0.5 * x))


class Linear(nn.Module):
    """Mix the channels of each degree; kernels of unit variance, scaled by the root of their inputs.

    Attributes:
        channels: of the output, for each degree; degrees that the input lacks stay out.
    """

    channels: Sequence[int]

    @nn.compact
    def __call__(self, features: Features) -> list[Array]:
        """Mixed features (M, 2l + 1, channels)."""
        mixed = []
        for degree, (x, size) in enumerate(zip(features, self.channels, strict=False)):
            kernel = self.param(f"degree_{degree}", nn.initializers.normal(1.0), (x.shape[-1], size))
            mixed.append(x @ (kernel * x.shape[-1] ** -0.5))
        return mixed


class RMSNorm(nn.Module):
    """Divide all degrees by one root mean square, then scale each channel.

    The square is summed over channels and weighted by 1/(2l + 1)**2 and the number of degrees: what published
    Nequix weights were trained with.
    """

    @nn.compact
    def __call__(self, features: Features) -> list[Array]:
        """Normalized features, of the same shapes."""
        weights = [1 / (x.shape[1] ** 2 * len(features)) for x in features]
        square = sum(w * jnp.sum(x * x, axis=(1, 2)) for w, x in zip(weights, features, strict=True))
        inverse = lax.rsqrt(square + 1e-12)[:, None, None]
        scales = [
            self.param(f"degree_{degree}", nn.initializers.ones, (x.shape[-1],))
            for degree, x in enumerate(features)
        ]
        return [x * scale * inverse for x, scale in zip(features, scales, strict=True)]


def gate(features: Features, norm: float | None = None) -> list[Array]:
    """Activate scalars and multiply every other channel by an activated scalar of its own.

    Args:
        features: the scalars that gate stand last among the scalars, ordered as the channels they gate.
        norm: what activated scalars are divided by; `SILU_NORM` when not given.

    Returns:
        features, fewer scalars by those that gated.
    """
    scalars, *others = features
    scalars = silu(scalars) / (SILU_NORM if norm is None else norm)
    sizes = [x.shape[-1] for x in others]
    ends = scalars.shape[-1] - sum(sizes) + np.cumsum([0, *sizes])
    kept, *gates = jnp.split(scalars, ends[:-1], axis=-1) if sizes else (scalars,)
    return [kept, *(x * g for x, g in zip(others, gates, strict=True))]
