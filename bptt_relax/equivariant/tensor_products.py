"""Features that rotate with the structure, and the products that keep it so.

A feature of degree l and parity (-1)**l is an array (M, 2l + 1, channels): components in the order and normalization
of e3nn (Geiger and Smidt, arXiv:2207.09453), channels last, where a layer's inner loops run over them.
"""

import functools
from collections.abc import Sequence

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Array

Features = Sequence[Array]
"""One array (M, 2l + 1, channels of l) for each degree l = 0, 1, ..."""


def spherical_harmonics(directions: Array, max_degree: int) -> Features:
    """Real spherical harmonics up to a degree, of mean square one per component.

    Args:
        directions: (M, 3) unit vectors.
        max_degree: the largest degree.

    Returns:
        (M, 2l + 1) for each degree.
    """
    harmonics = e3nn.spherical_harmonics(
        e3nn.s2_irreps(max_degree),
        directions,
        normalize=False,
        normalization="component",
        # Not its own derivative rule: that is traced later than what it belongs to, in another precision of products.
        algorithm=("recursive", "dense"),
    )
    return jnp.split(harmonics.array, [degree**2 for degree in range(1, max_degree + 1)], axis=-1)


@functools.cache
def coupling(first: int, second: int, result: int) -> np.ndarray:
    """Clebsch-Gordan coefficients, (2l + 1) of each degree, that keep the mean square of a component."""
    return np.asarray(e3nn.clebsch_gordan(first, second, result)) * (2 * result + 1) ** 0.5


def couple(features: Array, harmonics: Array, degrees: tuple[int, int, int]) -> Array:
    """One path of the product of features and harmonics of edges.

    Args:
        features: (E, 2l + 1, channels).
        harmonics: (E, 2l + 1).
        degrees: of the features, of the harmonics and of the product.

    Returns:
        (E, 2l + 1, channels).
    """
    # Harmonics and coefficients make one small matrix per edge; only then come the many channels.
    turn = jnp.einsum("ej,ijk->eki", harmonics, jnp.asarray(coupling(*degrees), features.dtype))
    # And no batch of tiny matrix products, which a CPU differentiates up to 15 times as slowly as this sum.
    return jnp.sum(turn[:, :, :, None] * features[:, None], axis=2)


def paths(
    num_degrees: int, max_harmonic: int, max_result: int, *, parity: bool = True
) -> list[list[tuple[int, int]]]:
    """Ways to make each degree out of a feature and a harmonic.

    Args:
        num_degrees: degrees 0 ... num_degrees - 1 of the features.
        max_harmonic: largest degree of the harmonics.
        max_result: largest degree of the product.
        parity: leave out products that change it, those of degrees whose sum is odd; without, features know rotations
            but not reflections.

    Returns:
        for each degree of the product the pairs (degree of the feature, degree of the harmonic).
    """

    def couples(first: int, second: int, result: int) -> bool:
        odd = (first + second + result) % 2 == 1
        return abs(first - second) <= result <= first + second and not (parity and odd)

    pairs = [(first, second) for first in range(num_degrees) for second in range(max_harmonic + 1)]
    return [[pair for pair in pairs if couples(*pair, result)] for result in range(max_result + 1)]
