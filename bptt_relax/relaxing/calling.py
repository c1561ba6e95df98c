"""Relaxing files as a function: for Python, and for potentials that no registry knows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bptt_relax.models import base_model
from bptt_relax.models.base_models import Given
from bptt_relax.relaxing.run import run
from bptt_relax.relaxing.settings import RelaxSettings


def relax_files(
    files: str | Path | Sequence[str | Path],
    base: Given = "chgnet-0.3.0",
    *,
    out: str | Path,
    **settings: Any,
) -> Path:
    """Relax every structure of files and folders into one file: ``bptt-relax relax`` from Python.

    Structures in memory, and gradients through their relaxations, are for `batches.RelaxMany` and `unroll`.

    Args:
        files: one or several, of any format that ASE reads.
        base: the model: a name or file as for `models.load`, ``(potential, params)``, or a base model.
        out: extended XYZ file for the relaxed structures. Never written over.
        **settings: of `relaxing.settings.RelaxSettings`, as ``fmax=0.02, cell="free"``.

    Returns:
        ``out``.

    Raises:
        InputError: something is wrong with files or settings; lists everything, and nothing is written.
        ModelError: the model can't be had.
        RelaxationError: all is written, but relaxations failed; names them.
        ValueError: a setting that does not exist, or has an impossible value.
        Interrupted: stopped by a signal; go on with ``resume=True``.
    """
    paths = [files] if isinstance(files, str | Path) else files
    base = base_model(base)
    chosen = RelaxSettings(out=Path(out), model=base.name, **settings)
    run([Path(path) for path in paths], chosen, base=base)
    return Path(out)
