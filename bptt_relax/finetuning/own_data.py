"""Fine-tuning on the user's own relaxations: read, checked, split by relaxation."""

from collections.abc import Sequence
from pathlib import Path

from bptt_relax import io
from bptt_relax.analysis import require_consistent
from bptt_relax.finetuning import corpus
from bptt_relax.finetuning.run import fine_tune
from bptt_relax.finetuning.settings import OwnDataSettings
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.options import on_command_line, spell, use
from bptt_relax.io.problems import summarize
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.models import BaseModel
from bptt_relax.outcomes import InputError, printable, say
from bptt_relax.runs import folder as folders
from bptt_relax.runs.session import Finished
from bptt_relax.units import EV_PER_A3_IN_GPA


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
    called = printable(data.name) if isinstance(data, Path) else "relaxations"
    # Before reading, which may take long: a folder that can't be used is known at once.
    folder = folders.choose(settings.out, settings.resume, run_name(data))
    relaxations, problems = read(data, settings.reading) if isinstance(data, Path) else (list(data), [])
    check_pressures(relaxations)
    if base is not None and base.is_own:
        require_consistent(base.potential, base.params, [r.initial for r in relaxations])
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
        write_left_out(folder / "rejected.csv", problems)
    return finished


def run_name(data: Path | Sequence[Relaxation]) -> str:
    """Name of the folder of a run, where the user gives none."""
    return f"finetune-{data.resolve().stem}" if isinstance(data, Path) else "finetune"


def write_left_out(path: Path, problems: Sequence[io.Problem]) -> None:
    """Write what was left out; a run that goes on finds its own list there."""
    if not path.exists():
        io.write_rejected(path, problems, SPELLING)


SPELLING = on_command_line("reading.")
"""How the options of reading are written on the command line of ``finetune``."""


def read(path: Path, options: io.ReadOptions) -> tuple[list[Relaxation], list[io.Problem]]:
    """Relaxations fit for training, and what was left out; everything worth knowing about them is said.

    Args:
        path: as `io.read_relaxations`.
        options: what is accepted.

    Raises:
        InputError: nothing is there, or something is wrong and may not be left out; lists all problems.
    """
    found = io.inspect(path, options)
    if found.rejected and not (options.skip_bad and found.relaxations):
        way_out = spell(f"leave them out with {use('skip_bad')}", SPELLING)
        raise InputError(f"{io.describe(found.rejected, f'cannot use {path}', SPELLING)}\n{way_out}")
    for line in summarize(found.notes, SPELLING):
        say(f"note: {line}", error=True)
    for line in summarize(found.rejected, SPELLING):
        say(f"left out: {line}", error=True)
    return found.relaxations, found.rejected


def check_pressures(relaxations: Sequence[Relaxation]) -> None:
    """Refuse relaxations of the cell under a pressure: training and testing relax at none.

    Raises:
        InputError: naming them.
    """
    under = [r for r in relaxations if r.pressure and changes_cell(r)]
    if under:
        listed = ", ".join(f"{r.name} ({r.pressure * EV_PER_A3_IN_GPA:g} GPa)" for r in under[:5])
        way_out = spell(f"take the atoms alone in the final cell with {use('in_relaxed_cell')}", SPELLING)
        raise InputError(
            f"{len(under)} of {len(relaxations)} relaxations of the cell were done under a pressure: {listed}; "
            f"training relaxes at none: {way_out}, or leave them out"
        )
