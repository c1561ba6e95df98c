"""Fine-tuning on the user's own relaxations: read, checked, split by relaxation."""

from pathlib import Path

from bptt_relax import io
from bptt_relax.finetuning import corpus, workspace
from bptt_relax.finetuning.run import run as finetune
from bptt_relax.finetuning.settings import OwnDataSettings, ReadingSettings
from bptt_relax.io.checks import CELL_TOLERANCE, cell_change
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError


def run(path: Path, settings: OwnDataSettings) -> int:
    """Do everything from a folder of relaxations to a tuned potential.

    Args:
        path: as `io.read_relaxations`.
        settings: everything else.

    Returns:
        exit code, see `finetuning.run.run`, whose errors it raises.
    """
    name = f"finetune-{path.resolve().stem}"
    # Before reading, which may take long: a folder that can't be used is known at once.
    folder = workspace.choose_folder(settings.out, settings.resume, name)
    relaxations, problems = read(path, settings.reading)
    parts = io.split(
        relaxations,
        validation=settings.split.validation,
        test=settings.split.test,
        unseen=settings.split.unseen,
        seed=settings.split.draw,
    )
    data = corpus.Corpus(path.name, corpus.digest(relaxations), relaxations, parts)
    code = finetune("finetune", data, settings.model_copy(update={"out": folder}), name)
    if problems:
        io.write_rejected(folder / "rejected.csv", problems)
    return code


def read(path: Path, settings: ReadingSettings) -> tuple[list[Relaxation], list[io.Problem]]:
    """Relaxations fit for training, and what was left out.

    Args:
        path: as `io.read_relaxations`.
        settings: what is accepted.

    Raises:
        InputError: nothing is there, or something is wrong and may not be left out; lists all problems.
    """
    found = io.inspect(
        path,
        limits=io.Limits(fmax=settings.fmax, allow_unconverged=settings.allow_unconverged),
        reorder=settings.reorder,
        start_below=settings.start_below,
    )
    if found.rejected and not (settings.skip_bad and found.relaxations):
        raise InputError(
            io.describe(found.rejected, f"cannot use {path}") + "\nleave them out with --reading.skip-bad"
        )
    relaxations = found.relaxations
    if settings.in_relaxed_cell:
        relaxations = [io.at_relaxed_cell(r) if _changes_cell(r) else r for r in relaxations]
    moving = [r.name for r in relaxations if _changes_cell(r)]
    if moving:
        raise InputError(
            f"the cell changes in {len(moving)} relaxations ({', '.join(moving[:5])}): take the atoms in their final "
            "cell with --reading.in-relaxed-cell, or leave them out"
        )
    return relaxations, found.rejected


def _changes_cell(relaxation: Relaxation) -> bool:
    strain, _ = cell_change(relaxation.initial, relaxation.relaxed)
    return strain > CELL_TOLERANCE
