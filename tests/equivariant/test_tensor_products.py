"""Products of features and harmonics turn with what they are made of."""

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax.equivariant import coupling, paths, spherical_harmonics


def test_every_way_to_make_a_degree_is_equivariant():
    """Each coupling commutes with a rotation of its inputs; tested through harmonics of rotated directions."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 40, 3))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    with jax.numpy_rank_promotion("allow"):
        plain = [[np.asarray(y) for y in spherical_harmonics(jnp.asarray(x), 3)] for x in (a, b)]
        turned = [[np.asarray(y) for y in spherical_harmonics(jnp.asarray(x @ rotation), 3)] for x in (a, b)]
    ways = paths(4, 3, 3)
    assert [len(way) for way in ways] == [4, 6, 7, 6]
    for result, way in enumerate(ways):
        turn = np.linalg.lstsq(plain[0][result], turned[0][result], rcond=None)[0]
        for first, second in way:
            here, there = (
                np.einsum("ei,ej,ijk->ek", y[0][first], y[1][second], coupling(first, second, result))
                for y in (plain, turned)
            )
            np.testing.assert_allclose(there, here @ turn, atol=1e-6)
            assert np.max(np.abs(here)) > 0.1
