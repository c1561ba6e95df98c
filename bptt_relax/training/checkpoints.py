"""Checkpoints of a training stage, on Orbax: complete or absent, never half written, never of another dtype.

Orbax looks at nothing but the names of folders to tell which checkpoint is the newest, and hands out numbers in which
bits have flipped. Each checkpoint therefore carries a digest of what is in it.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from bptt_relax import distributed
from bptt_relax._types import PyTree
from bptt_relax.outcomes import InputError, StorageError, why_unwritable
from bptt_relax.trees import path_name


class Checkpoints:
    """Numbered checkpoints (pytree + JSON) in one folder; the newest two are kept.

    Of several processes all save and restore together, in the folder of the run. Which ones wrote a checkpoint does not
    matter to those who read it.

    Args:
        folder: created where absent.

    Attributes:
        damaged: sentences about checkpoints that `restore` could not read and put aside.
    """

    def __init__(self, folder: Path):
        self._processes = distributed.processes()
        self.folder = self._processes.shared(Path(folder)).absolute()
        self.damaged: list[str] = []
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        # Named up front: a manager that has not written yet cannot describe what it finds otherwise.
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(self, number: int, tree: PyTree, meta: dict[str, Any]) -> None:
        """Write checkpoint ``number``; a process killed meanwhile leaves the previous ones good.

        Raises:
            StorageError: there is no room for it; the previous ones are as they were.
        """
        kept = {"notes": meta, "sha256": _digest(tree, meta)}
        try:
            self._manager.save(
                number,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(self._processes.to_all(tree)), meta=ocp.args.JsonSave(kept)
                ),
                force=True,
            )
        except Exception as error:
            if (why := why_unwritable(error)) is None:
                raise
            for half in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(half, ignore_errors=True)
            raise StorageError(f"{why}: no checkpoint could be written to {self.folder}") from error

    def newest(self) -> int | None:
        """Number of the newest complete checkpoint."""
        return self._manager.latest_step()

    def restore(self, like: PyTree, number: int | None = None) -> tuple[PyTree, dict[str, Any]]:
        """Read a checkpoint back.

        Args:
            like: pytree of the expected structure, shapes and dtypes.
            number: which; the newest that is not damaged when not given. Those that are, are put aside, and
                `damaged` says so.

        Raises:
            InputError: there is none, all are damaged, or structure, shapes or dtypes are not the expected ones. Orbax
                itself would cast dtypes without a word.
        """
        numbers = sorted(self._manager.all_steps(), reverse=True) if number is None else [number]
        if not numbers:
            raise InputError(f"no checkpoint in {self.folder}: nothing to resume from")
        failures: list[tuple[int, Exception]] = []
        for candidate in numbers:
            try:
                found, failure = self._read(like, candidate), None
            except Exception as error:  # Orbax raises whatever its parsers do, and Exception itself.
                found, failure = None, error
            said = self._processes.gather(None if failure is None else _in_words(failure))
            if found is not None and not any(said):
                self._put_aside([number for number, _ in failures])
                self.damaged += [
                    f"checkpoint {self.folder / str(number)} is damaged ({_in_words(error)}): put aside as "
                    f"{number}.damaged; going on from {candidate}"
                    for number, error in failures
                ]
                return found
            failures.append((candidate, failure or OSError(next(filter(None, said)))))
        newest, failure = failures[0]
        if isinstance(failure, InputError):
            raise failure
        raise InputError(
            f"checkpoint {self.folder / str(newest)} is damaged ({_in_words(failure)}), and there is none before it "
            f"that is not: remove {self.folder} to train this stage anew"
        ) from failure

    def _put_aside(self, numbers: list[int]) -> None:
        """Rename the folders of checkpoints, so that others can take their numbers."""
        if not numbers:
            return

        def rename() -> None:
            for number in numbers:
                damaged = self.folder / f"{number}.damaged"
                shutil.rmtree(damaged, ignore_errors=True)
                (self.folder / str(number)).rename(damaged)

        self._processes.of_first(rename)
        self._manager.reload()

    def _read(self, like: PyTree, number: int) -> tuple[PyTree, dict[str, Any]]:
        """One checkpoint, whole and of the expected form.

        Raises:
            InputError: it is of another form.
            Exception: of any kind, as it is damaged.
        """
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
        tree, kept = self._processes.from_all(restored["state"]), restored["meta"]
        if _digest(tree, kept["notes"]) != kept["sha256"]:
            raise OSError("its numbers are not those that were saved")
        return tree, kept["notes"]

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _digest(tree: PyTree, meta: dict[str, Any]) -> str:
    """Of every array, with its name and dtype, and of the notes."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        array = np.asarray(leaf, jnp.result_type(leaf))
        digest.update(f"{path_name(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _in_words(error: Exception) -> str:
    """The first line of what a parser says, which may go on for pages."""
    return (str(error).splitlines() or [""])[0][:160] or type(error).__name__
