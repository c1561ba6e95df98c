"""Fine-tuning as a function: for Python, and for potentials that no registry knows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bptt_relax._types import Params
from bptt_relax.finetuning import own_data
from bptt_relax.finetuning.settings import OwnDataSettings
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.models import base_model
from bptt_relax.models.base_models import Given


class FineTuned(NamedTuple):
    """What a run has left.

    Attributes:
        folder: with everything it wrote: results, figures, relaxed structures, models with their cards.
        results: of ``results.json``.
        params: tuned by BPTT, one pytree like the one given for each seed.
    """

    folder: Path
    results: dict[str, Any]
    params: tuple[Params, ...]


def finetune(
    relaxations: str | Path | Sequence[Relaxation],
    base: Given = "chgnet-0.3.0",
    *,
    out: str | Path | None = None,
    **settings: Any,
) -> FineTuned:
    """Fine-tune a model on DFT relaxations and measure it on what was held out: ``bptt-relax finetune`` from Python.

    Args:
        relaxations: a file or folder, as `io.read_relaxations` takes it and ``bptt-relax check`` checks it; or
            relaxations in memory.
        base: what to start from: a name or file as for `models.load`, ``(potential, params)``, or
            `models.own_model`, which says more of it.
        out: folder for the run; one of its own under ``runs/`` when not given. Nothing is ever written over.
        **settings: of `finetuning.settings.OwnDataSettings`, groups as dictionaries:
            ``bptt={"epochs": 2}, relaxation={"step_size": 0.01}, resume=True``.

    Raises:
        InputError: anything about the settings, the folder, the data or the model.
        ModelError: the weights can't be had.
        ValueError: a setting that does not exist, or has an impossible value.
        Interrupted: stopped by a signal after everything was saved; go on with ``resume=True``.
    """
    if isinstance(relaxations, str):
        relaxations = Path(relaxations)
    base = base_model(base)
    chosen = OwnDataSettings(model=base.name, out=None if out is None else Path(out), **settings)
    finished = own_data.run(relaxations, chosen, base)
    seeds = (finished.folder / f"seed{seed}" for seed in finished.results["seeds"])
    params = tuple(base.load(seed / "bptt.safetensors") for seed in seeds)
    return FineTuned(finished.folder, finished.results, params)
