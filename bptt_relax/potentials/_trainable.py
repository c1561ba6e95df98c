"""Which parameters of a potential may be trained."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import jax

from bptt_relax._types import Params, PyTree
from bptt_relax.outcomes import InputError
from bptt_relax.trees import path_name

FROZEN_NAMES = frozenset({"reference_energies", "magnetic_moments"})
"""Arrays under these names never train, in whatever potential they appear.

``reference_energies`` (eV per atom of each element) only shift the zero of energy: no force depends on them, and
in fine-tuning they would absorb what the interactions should learn. ``magnetic_moments`` feeds no energy.
"""


def trainable(params: Params, *, freeze: Sequence[str] = (), train_only: Sequence[str] = ()) -> PyTree:
    """Booleans, shaped like the parameters: True where training may change a parameter.

    Give it to ``optax.masked`` or ``optax.partition``.

    Args:
        params: of any potential.
        freeze: what stays as it is: names such as ``readout_0``, ``atom_update_*`` or ``*/bias``, with the wildcards
            of the shell. A name stands for everything below it.
        train_only: what may train, everything else being frozen; all when empty.

    Raises:
        InputError: a name that matches no parameter, or nothing is left to train.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    unmatched = [name for name in (*freeze, *train_only) if not any(_matches(path, name) for path in paths)]
    if unmatched:
        groups = ", ".join(dict.fromkeys(path.partition("/")[0] for path in paths))
        raise InputError(f"no parameter is called {', '.join(unmatched)}; there are {groups}")

    def may_train(path: tuple, leaf: object) -> bool:
        del leaf
        name = path_name(path)
        if FROZEN_NAMES & set(name.split("/")) or any(_matches(name, pattern) for pattern in freeze):
            return False
        return not train_only or any(_matches(name, pattern) for pattern in train_only)

    chosen = jax.tree_util.tree_map_with_path(may_train, params)
    if not any(jax.tree.leaves(chosen)):
        raise InputError(
            f"nothing is left to train with freeze = {list(freeze)}, train_only = {list(train_only)}: freeze less"
        )
    return chosen


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")
