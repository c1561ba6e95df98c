"""Fine-tuning on the user's own relaxations: read, checked, split by relaxation."""

from collections.abc import Sequence
from pathlib import Path

from bptt_relax import io
from bptt_relax.finetuning import corpus
from bptt_relax.finetuning.run import fine_tune
from bptt_relax.finetuning.settings import OwnDataSettings, ReadingSettings
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.models import BaseModel
from bptt_relax.outcomes import InputError
from bptt_relax.runs import folder as folders
from bptt_relax.runs.session import Finished


def run(
    data: Path | Sequence[Relaxation], settings: OwnDataSettings, base: BaseModel | None = None
) -> Finished:
    """Do everything from a folder of relaxations to a tuned potential.

    Args:
        data: as `io.read_relaxations`, or relaxations.
        settings: everything else.
        base: what to start from; what ``settings.model`` names when not given.

    Raises:
        InputError, ModelError, Interrupted: see `run.fine_tune`.
    """
    called = data.name if isinstance(data, Path) else "relaxations"
    # Before reading, which may take long: a folder that can't be used is known at once.
    folder = folders.choose(settings.out, settings.resume, run_name(data))
    relaxations, problems = read(data, settings.reading) if isinstance(data, Path) else (list(data), [])
    if settings.reading.in_relaxed_cell:
        relaxations = [io.at_relaxed_cell(r) if changes_cell(r) else r for r in relaxations]
    parts = io.split(
        relaxations,
        validation=settings.split.validation,
        test=settings.split.test,
        unseen=settings.split.unseen,
        seed=settings.split.draw,
    )
    used = corpus.Corpus(called, corpus.digest(relaxations), relaxations, parts)
    finished = fine_tune("finetune", used, settings, folder, base)
    if problems:
        io.write_rejected(folder / "rejected.csv", problems)
    return finished


def run_name(data: Path | Sequence[Relaxation]) -> str:
    """Name of the folder of a run, where the user gives none."""
    return f"finetune-{data.resolve().stem}" if isinstance(data, Path) else "finetune"


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
    return found.relaxations, found.rejected
