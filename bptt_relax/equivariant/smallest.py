"""The smallest input of a network that reads edges: what its parameters are drawn on."""

import jax.numpy as jnp

from bptt_relax._types import Array
from bptt_relax.neighbors import Graph


def one_edge(species: int) -> tuple[Array, Array, Array, Graph]:
    """Vectors, species, mask and graph of one atom with one edge; shapes of parameters need no more.

    Args:
        species: atomic number of the atom.
    """
    index, yes, none = jnp.zeros((1,), jnp.int32), jnp.ones((1,), bool), jnp.zeros((0,), jnp.int32)
    graph = Graph(
        centers=index,
        neighbors=index,
        images=jnp.ones((1, 3)),
        reverse=index,
        mask=yes,
        bonds=none,
        bond_reverse=none,
        bond_mask=none.astype(bool),
        angles=jnp.zeros((0, 2), jnp.int32),
        angle_mask=none.astype(bool),
        overflow=jnp.asarray(False),
    )
    return jnp.ones((1, 3)), index + species, yes, graph
