"""Updates that could not be used: kept by the run that met one, with all that it takes to repeat it anywhere."""

import json
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save as serialize

from bptt_relax._precision import precision
from bptt_relax._types import PyTree
from bptt_relax.finetuning import objectives
from bptt_relax.finetuning.relaxation import make_rule
from bptt_relax.finetuning.settings import RecipeSettings
from bptt_relax.models import BaseModel, base_model
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import trainable
from bptt_relax.relax import Theta
from bptt_relax.systems import Pair
from bptt_relax.training import BadUpdate, Example, LabelledFrame, ReplayFrame, low_rank
from bptt_relax.trees import global_norm
from bptt_relax.weights import own_format, weights_file
from bptt_relax.weights.published import read_bytes

FORMAT = "bptt_relax update 1"


class Kind(NamedTuple):
    """A term of the loss.

    Attributes:
        name: of the term.
        data: of its examples.
        describe: its objective in some settings, at a pressure.
    """

    name: str
    data: type
    describe: Callable[[RecipeSettings, float], objectives.Description]


KINDS = (
    Kind("relaxed end", Pair, objectives.relaxed_ends),
    Kind("forces", LabelledFrame, lambda settings, _: objectives.forces(settings)),
    Kind("replay", ReplayFrame, lambda settings, _: objectives.replay(settings)),
)


class Repeated(NamedTuple):
    """One example of an update that was repeated.

    Attributes:
        term: of the loss.
        name: of the example.
        loss: its loss.
        grad_norm: norm of its gradient; NaN where it has none that could be used.
        reason: why it could not be used, or None where it could.
        before: likewise, in the run.
    """

    term: str
    name: str
    loss: float
    grad_norm: float
    reason: str | None
    before: str | None

    @property
    def sentence(self) -> str:
        """What happened to it, then and now."""
        now = self.reason or f"loss {self.loss:.6g}, gradient {self.grad_norm:.6g}"
        then = "as in the run" if (self.reason is None) == (self.before is None) else "unlike in the run"
        return f"{self.term} of {self.name}: {now} ({then}{f': {self.before}' if self.before else ''})"


def write(
    path: Path, update: BadUpdate, settings: RecipeSettings, base: BaseModel, pressure: float = 0.0
) -> None:
    """Keep an update: the examples with their structures, the model, and how its gradient is taken.

    Args:
        path: of the .safetensors file.
        update: what could not be used.
        settings: of the stage.
        base: what training started from.
        pressure: at which cells are relaxed, eV/angstrom^3.
    """
    arrays, terms = _arrays("theta", own_format.by_path(update.theta)), []
    for index, (examples, weight) in enumerate(zip(update.batch, update.weights, strict=True)):
        for number, example in enumerate(examples):
            arrays |= _flat(f"{index}/{number}", example.made().data)
        kind = (
            next(kind for kind in KINDS if isinstance(examples[0].made().data, kind.data)).name
            if examples
            else ""
        )
        terms.append({"kind": kind, "weight": weight, "names": [example.name for example in examples]})
    about = {
        "stage": update.stage,
        "epoch": update.epoch,
        "step": update.step,
        "in_a_row": update.in_a_row,
        "left_out": {one.name: one.reason for one in update.left_out},
        "terms": terms,
        "settings": settings.model_dump(mode="json", include=set(RecipeSettings.model_fields)),
        "params_sha256": base.sha256,
        "pressure": pressure,
        "double": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
    }
    weights_file.write_whole(path, serialize(arrays, {"format": FORMAT, "update": json.dumps(about)}))


def repeat(path: Path, base: BaseModel | None = None) -> tuple[str, list[Repeated]]:
    """Take the gradients of an update once more, one example at a time.

    Args:
        path: of the bundle.
        base: what training started from; what the bundle names when not given.

    Returns:
        which update it was, and what came of each example.

    Raises:
        InputError: the file is no bundle, or of another model.
        ModelError: the model can't be had.
    """
    arrays, metadata = weights_file.parse(read_bytes(path), str(path))
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} is no bundle of an update (format {metadata.get('format')!r}): a run leaves them in its folder "
            "bad_updates"
        )
    try:
        about = json.loads(metadata["update"])
        settings = RecipeSettings.model_validate(about["settings"])
        base = base or base_model(settings.model)
        if base.sha256 != about["params_sha256"]:
            raise InputError(
                f"{path} was written with other weights than those of {base.name}: it needs the ones that the run "
                "started from"
            )
        with precision(double=about["double"]):
            return _sentence(about, base), _repeat(arrays, about, settings, base, path)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged ({error}): copy it again") from error


def _sentence(about: Mapping[str, Any], base: BaseModel) -> str:
    return (
        f"{about['stage']} of {base.name}, epoch {about['epoch']}, after {about['step']} updates: the last of "
        f"{about['in_a_row']} in a row that could not be used"
    )


def _repeat(
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    settings: RecipeSettings,
    base: BaseModel,
    path: Path,
) -> list[Repeated]:
    theta = _filled(_start(settings, base), arrays, path)
    gradients = objectives.Objectives(base.potential, base.params)
    found = []
    for index, term in enumerate(about["terms"]):
        kind = next((kind for kind in KINDS if kind.name == term["kind"]), None)
        if kind is None:
            raise InputError(
                f"{path} has a term {term['kind']!r}, which this version does not know: update it"
            )
        for number, name in enumerate(term["names"]):
            data = _nested(kind.data, arrays, f"{index}/{number}", path)
            taken = gradients(kind.describe(settings, about["pressure"]))(theta, [Example(name, data)])
            out = taken.left_out[0] if taken.left_out else None
            found.append(
                Repeated(
                    kind.name,
                    name,
                    out.loss if out else taken.loss,
                    out.grad_norm if out else float(global_norm(taken.total)),
                    out and out.reason,
                    about["left_out"].get(name),
                )
            )
    return found


def _start(settings: RecipeSettings, base: BaseModel) -> Theta:
    """What a stage with these settings starts from."""
    params, chosen = base.params, settings.parameters
    if chosen.rank:
        may_change = trainable(params, freeze=chosen.freeze, train_only=chosen.train_only)
        params = low_rank.factor(params, chosen.rank, may_change)
    return Theta(params, make_rule(settings.relaxation).hyper)


def _arrays(prefix: str, leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": np.asarray(leaf, order="C") for name, leaf in leaves.items()}


def _flat(prefix: str, tree: PyTree) -> dict[str, np.ndarray]:
    return _arrays(prefix, own_format.by_path(tree))


def _filled(like: Theta, arrays: Mapping[str, np.ndarray], path: Path) -> Theta:
    """Theta from its arrays, whose values need not be finite."""
    leaves = own_format.by_path(like)
    for name, leaf in leaves.items():
        if arrays[f"theta/{name}"].shape != jnp.shape(leaf):
            raise InputError(
                f"{path}: {name} has another shape than in the model: it belongs to another version"
            )
    found = [jnp.asarray(arrays[f"theta/{name}"]) for name in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _nested(kind: type, arrays: Mapping[str, np.ndarray], prefix: str, path: Path) -> Any:
    """A NamedTuple, of which some fields may be others, from arrays by path."""
    values: dict[str, Any] = {}
    for field, hint in typing.get_type_hints(kind).items():
        name, options = f"{prefix}/{field}", (hint, *typing.get_args(hint))
        inner = next((one for one in options if hasattr(one, "_fields")), None)
        if name in arrays:
            values[field] = arrays[name]
        elif inner is not None and any(key.startswith(f"{name}/") for key in arrays):
            values[field] = _nested(inner, arrays, name, path)
        elif type(None) in options:
            values[field] = None
        else:
            raise InputError(f"{path} lacks {name}: it is damaged, or of another version")
    return kind(**values)
