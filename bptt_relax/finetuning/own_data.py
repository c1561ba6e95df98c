"""Fine-tuning on the user's own relaxations: read, checked, split by relaxation."""

from collections.abc import Sequence
from pathlib import Path

from bptt_relax import io
from bptt_relax.analysis import require_consistent
from bptt_relax.finetuning import corpus
from bptt_relax.finetuning.run import fine_tune
from bptt_relax.finetuning.settings import OwnDataSettings
from bptt_relax.io.calculation import differences
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
    check_methods(relaxations, settings.reading)
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
    return [_at(options.pressure, r) for r in found.relaxations], found.rejected


def _at(pressure: float, relaxation: Relaxation) -> Relaxation:
    """A relaxation of the cell of which no file says the pressure, at the one that the user says (GPa)."""
    made = relaxation.calculation
    if made.pressure is not None or not pressure or not changes_cell(relaxation):
        return relaxation
    return relaxation._replace(calculation=made._replace(pressure=pressure, free_cell=True))


def check_methods(relaxations: Sequence[Relaxation], options: io.ReadOptions) -> None:
    """Refuse relaxations by different methods: their energies and minima are not those of one surface.

    Raises:
        InputError: naming the methods, with who has them.
    """
    mixed = list(differences([(r.name, r.calculation) for r in relaxations]))
    if mixed and not options.allow_mixed:
        way_out = spell(f"keep to one, or accept it with {use('allow_mixed')}", SPELLING)
        raise InputError(f"{'; '.join(mixed)}: {way_out}")


def check_pressures(relaxations: Sequence[Relaxation]) -> None:
    """Refuse relaxations of the cell at different pressures: training and testing relax at one.

    Raises:
        InputError: naming them.
    """
    at: dict[float, list[str]] = {}
    for r in relaxations:
        if changes_cell(r):
            at.setdefault(r.pressure, []).append(r.name)
    if len(at) > 1:
        listed = "; ".join(
            f"{pressure * EV_PER_A3_IN_GPA:g} GPa ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for pressure, names in sorted(at.items())
        )
        way_out = spell(f"take the atoms alone in the final cell with {use('in_relaxed_cell')}", SPELLING)
        raise InputError(
            f"relaxations of the cell at different pressures, and training relaxes at one: {listed}. Keep to one, or "
            f"{way_out}"
        )
