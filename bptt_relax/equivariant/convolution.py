"""Sums over neighbors of products with harmonics: the convolution of all networks that are equivariant."""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from bptt_relax._types import Array
from bptt_relax.equivariant.tensor_products import Features, couple
from bptt_relax.neighbors import Graph


def convolution(
    features: Features,
    harmonics: Features,
    radial: Array,
    kernels: Iterable[Array],
    ways: Sequence[Sequence[tuple[int, int]]],
    graph: Graph,
) -> list[Array]:
    """Sum over neighbors of their features times harmonics of the direction, weighted by the distance.

    Args:
        features: of atoms.
        harmonics: (E, 2l + 1) of each degree.
        radial: (E, width), functions of the distance; zero where padded and at the cutoff.
        kernels: (width, channels) for each path, in the order of ``ways``.
        ways: from `paths`.
        graph: the neighbors.

    Returns:
        for each degree (N, 2l + 1, channels), those of each path side by side.
    """
    at_neighbors = [x[graph.neighbors] for x in features]
    remaining = iter(kernels)
    sums = []
    for result, way in enumerate(ways):
        messages = []
        for first, second in way:
            product = couple(at_neighbors[first], harmonics[second], (first, second, result))
            messages.append(product * (radial @ next(remaining))[:, None, :])
        sums.append(
            jax.ops.segment_sum(
                jnp.concatenate(messages, axis=-1),
                graph.centers,
                features[0].shape[0],
                indices_are_sorted=True,
            )
        )
    return sums
