"""Which parameters of a potential may be trained."""

import jax

from bptt_relax._types import Params, PyTree

FROZEN_NAMES = frozenset({"reference_energies", "magnetic_moments"})
"""Arrays under these names never train, in whatever potential they appear.

``reference_energies`` (eV per atom of each element) only shift the zero of energy: no force depends on them, and
in fine-tuning they would absorb what the interactions should learn. ``magnetic_moments`` feeds no energy.
"""


def trainable(params: Params) -> PyTree:
    """Booleans, shaped like the parameters: True where training may change a parameter.

    Give it to ``optax.masked`` or ``optax.partition``.

    Args:
        params: of any potential.
    """

    def may_train(path: tuple, leaf: object) -> bool:
        del leaf
        return not any(getattr(key, "key", None) in FROZEN_NAMES for key in path)

    return jax.tree_util.tree_map_with_path(may_train, params)
