"""Checkpoints of a training stage, on Orbax: complete or absent, never half written, never of another dtype."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from bptt_relax import distributed
from bptt_relax._types import PyTree
from bptt_relax.outcomes import InputError
from bptt_relax.trees import path_name


class Checkpoints:
    """Numbered checkpoints (pytree + JSON) in one folder; the newest two are kept.

    Of several processes all save and restore together, in the folder of the run. Which ones wrote a checkpoint does not
    matter to those who read it.

    Args:
        folder: created where absent.
    """

    def __init__(self, folder: Path):
        self._processes = distributed.processes()
        self.folder = self._processes.shared(Path(folder)).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        # Named up front: a manager that has not written yet cannot describe what it finds otherwise.
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(self, number: int, tree: PyTree, meta: dict[str, Any]) -> None:
        """Write checkpoint ``number``; a process killed meanwhile leaves the previous ones good."""
        self._manager.save(
            number,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(self._processes.to_all(tree)), meta=ocp.args.JsonSave(meta)
            ),
            force=True,
        )

    def newest(self) -> int | None:
        """Number of the newest complete checkpoint."""
        return self._manager.latest_step()

    def restore(self, like: PyTree, number: int | None = None) -> tuple[PyTree, dict[str, Any]]:
        """Read a checkpoint back.

        Args:
            like: pytree of the expected structure, shapes and dtypes.
            number: which; the newest when not given.

        Raises:
            InputError: there is none, or its structure, shapes or dtypes are not the expected ones. Orbax itself
                would cast dtypes without a word.
        """
        number = self.newest() if number is None else number
        if number is None:
            raise InputError(f"no checkpoint in {self.folder}: nothing to resume from")
        stored = self._manager.item_metadata(number).state
        expected = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
        found = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(stored.tree)}
        problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
        problems += [f"{name} is unexpected" for name in found.keys() - expected.keys()]
        for name in expected.keys() & found.keys():
            wanted = (jnp.shape(expected[name]), jnp.dtype(jnp.result_type(expected[name])))
            given = (tuple(found[name].shape), jnp.dtype(found[name].dtype))
            if wanted != given:
                problems.append(
                    f"{name} is {given[1]}{list(given[0])}, expected {wanted[1]}{list(wanted[0])}"
                )
        if problems:
            raise InputError(
                f"checkpoint {self.folder / str(number)} does not fit this run: {'; '.join(sorted(problems)[:5])}. "
                "It was written by another configuration or version; start afresh without --resume"
            )
        # On the devices of the expected leaves: Orbax would ask for those it was written from, and a run that began on
        # a CPU may go on on a GPU.
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            self._processes.to_all(jax.tree.map(jnp.asarray, like)),
        )
        restored = self._manager.restore(
            number,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()),
        )
        return self._processes.from_all(restored["state"]), restored["meta"]

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
