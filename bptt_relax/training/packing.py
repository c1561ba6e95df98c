"""Parameters as few long vectors: what is done to all of them alike compiles in a moment, whatever their number.

A network has a hundred arrays and more. Sums, norms and Adam on each of them make hundreds of small kernels, which XLA
takes longer to compile than a force.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._types import HostArray, PyTree


class Packing(NamedTuple):
    """How the leaves of a pytree lie in the vectors, which are one for each dtype.

    Attributes:
        structure: of the pytree.
        leaves: dtype name and shape of each leaf.
    """

    structure: Any
    leaves: tuple[tuple[str, tuple[int, ...]], ...]


@jax.tree_util.register_pytree_with_keys_class
class Packed:
    """A pytree of arrays in packed form; itself a pytree, whose leaves are the vectors.

    Attributes:
        vectors: dtype name -> (n,).
        packing: how the arrays lie in them.
    """

    def __init__(self, vectors: Mapping[str, HostArray], packing: Packing):
        self.vectors, self.packing = vectors, packing

    def unpack(self) -> PyTree:
        """The pytree; in numpy where the vectors are."""
        done = dict.fromkeys(self.vectors, 0)
        leaves = []
        for dtype, shape in self.packing.leaves:
            size = int(np.prod(shape))
            leaves.append(self.vectors[dtype][done[dtype] : done[dtype] + size].reshape(shape))
            done[dtype] += size
        return jax.tree.unflatten(self.packing.structure, leaves)

    def tree_flatten_with_keys(self):
        """Leaves with their names, and what is static."""
        names = tuple(self.vectors)
        return [(jax.tree_util.DictKey(name), self.vectors[name]) for name in names], (names, self.packing)

    @classmethod
    def tree_unflatten(cls, static, vectors):
        """Inverse of `tree_flatten_with_keys`."""
        names, packing = static
        return cls(dict(zip(names, vectors, strict=True)), packing)


def pack(tree: PyTree) -> Packed:
    """A pytree of arrays in packed form, to be traced; what is packed on the host stays there (`pack_on_host`)."""
    return _pack(tree, jnp)


def pack_on_host(tree: PyTree) -> Packed:
    """The same in numpy, each leaf of the dtype that JAX would give it."""
    return _pack(jax.tree.map(lambda leaf: np.asarray(leaf, jnp.result_type(leaf)), tree), np)


def like(tree: PyTree, values: PyTree) -> Packed:
    """One value for each leaf of a tree, packed as that tree would be; on the host.

    Args:
        tree: of arrays.
        values: a number or bool for each of its leaves.
    """
    dtype = np.result_type(*map(np.asarray, jax.tree.leaves(values)))
    filled = jax.tree.map(lambda leaf, value: np.full(jnp.shape(leaf), value, dtype), tree, values)
    packing = pack_on_host(tree).packing
    parts: dict[str, list[np.ndarray]] = {}
    for (name, _), leaf in zip(packing.leaves, jax.tree.leaves(filled), strict=True):
        parts.setdefault(name, []).append(np.ravel(leaf))
    return Packed({name: np.concatenate(part) for name, part in sorted(parts.items())}, packing)


def _pack(tree: PyTree, xp) -> Packed:
    leaves, structure = jax.tree.flatten(tree)
    packing = Packing(structure, tuple((leaf.dtype.name, tuple(leaf.shape)) for leaf in leaves))
    parts: dict[str, list] = {}
    for leaf in leaves:
        parts.setdefault(leaf.dtype.name, []).append(xp.ravel(leaf))
    return Packed({name: xp.concatenate(part) for name, part in sorted(parts.items())}, packing)
