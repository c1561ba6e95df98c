"""Relax the structures of files, and write where they end."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bptt_relax import batches, io
from bptt_relax.analysis import require_consistent
from bptt_relax.batches import Final
from bptt_relax.io import Found, Problem, StructureInspection
from bptt_relax.models import BaseModel, base_model
from bptt_relax.outcomes import InputError, Interrupted, Outcome, RelaxationError
from bptt_relax.processes import StopSignal
from bptt_relax.relax import Theta
from bptt_relax.relaxing.frames import ENDINGS, relaxed_frame, write_path
from bptt_relax.relaxing.motion import make_relaxation, make_rule
from bptt_relax.relaxing.output import Output
from bptt_relax.relaxing.settings import RelaxSettings
from bptt_relax.report import Reporter


def run(
    paths: Sequence[Path],
    settings: RelaxSettings,
    reporter: Reporter | None = None,
    base: BaseModel | None = None,
) -> dict[str, str]:
    """Relax every structure of the given files and folders.

    Args:
        paths: as `io.inspect_structures`.
        settings: how, and where to.
        reporter: told how far it is; one on standard error when not given.
        base: the model; what ``settings.model`` names when not given.

    Returns:
        how each structure ended, by name; that steps ran out is no failure.

    Raises:
        InputError: something is wrong with files or settings; lists everything, and nothing is written.
        ModelError: the model can't be had.
        RelaxationError: all is written, but relaxations failed; names them.
        Interrupted: a signal stopped it; what was relaxed is in the file.
    """
    base = base or base_model(settings.model)
    potential = base.potential
    if settings.cell != "fixed" and "stress" not in potential.predicts:
        raise InputError(
            f"--cell {settings.cell} needs a stress, and {potential.name} predicts none: take --cell fixed, or "
            "another --model"
        )
    output = Output(settings.out)
    inspection = io.inspect_structures(paths, elements=potential.elements)
    rejected_to = _check(settings, output, inspection)
    found = inspection.found
    if base.is_own:
        require_consistent(potential, base.params, [one.structure for one in found])
    start = {
        "settings": settings.physics(),
        "structures": _digest(found),
        "params_sha256": base.sha256,
    }
    with (
        output.opened(start, settings.resume),
        StopSignal().listening() as stop,
        reporter or Reporter() as reporter,
    ):
        if inspection.rejected:
            io.write_rejected(rejected_to, inspection.rejected)
            reporter.warn(f"left out, reasons in {rejected_to}: {_listed(inspection.rejected)}")
        for note in inspection.notes:
            reporter.note(f"note: {note}")
        _relax(found, base, settings, output, reporter, stop)
        if stop():
            raise Interrupted(
                f"interrupted: {len(output.names)} of {len(found)} structures are in {settings.out}. "
                "Go on with the same command and --resume",
                stop.number or 2,
            )
        output.complete([one.structure.name for one in found])
    endings = output.endings()
    _check_endings(endings, output.path)
    return endings


def summary(endings: Mapping[str, str]) -> str:
    """How relaxations ended, in one line; as `run` returns it."""
    counts = Counter(endings.values())
    said = ", ".join(f"{count} {ending}" for ending, count in counts.most_common())
    return f"{len(endings)} structure{'s' * (len(endings) != 1)}: {said}"


def _check(settings: RelaxSettings, output: Output, inspection: StructureInspection) -> Path:
    """Refuse what is wrong, all of it at once. Returns where rejected structures are listed."""
    rejected_to = settings.rejected_to or settings.out.with_name("rejected.csv")
    problems = list(output.problems(settings.resume))
    if not inspection.found and not inspection.rejected:
        problems.append(
            Problem("bptt-relax relax", "", "no files given", "name files or folders of structures")
        )
    if settings.skip_bad and inspection.rejected and rejected_to.exists() and not settings.resume:
        fix = "name another file with --rejected-to"
        problems.append(Problem(str(rejected_to), "", "exists and is never written over", fix))
    folder = settings.trajectory
    used = folder is not None and folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if used and not settings.resume:
        fix = "name a folder that does not exist yet"
        problems.append(Problem(f"--trajectory {folder}", "", "is a file, or not empty", fix))
    if not settings.skip_bad or not inspection.found:
        problems += inspection.rejected
    if problems:
        hint = (
            "\nleave bad structures out with --skip-bad" if inspection.found and inspection.rejected else ""
        )
        raise InputError(io.describe(problems, "nothing relaxed, nothing written") + hint)
    return rejected_to


def _relax(
    found: Sequence[Found],
    base: BaseModel,
    settings: RelaxSettings,
    output: Output,
    reporter: Reporter,
    stop: StopSignal,
) -> None:
    """Relax what is not in the output yet."""
    done = {k for k, one in enumerate(found) if one.structure.name in output.names}
    if done:
        reporter.note(f"{len(done)} of {len(found)} structures are relaxed already")
    if len(done) == len(found):
        return
    potential, rule = base.potential, make_rule(settings)
    relaxation = make_relaxation(potential, rule, settings)
    structures = [one.structure for one in found]
    # Planned for all, also where some are done: what is left ends to the last digit where it would have.
    buckets = batches.plan_buckets(structures, potential.graph, headroom=batches.headroom(relaxation))
    reporter.note(batches.describe(buckets))
    left = [bucket._replace(members=tuple(k for k in bucket.members if k not in done)) for bucket in buckets]
    relax_many = batches.RelaxMany(
        relaxation,
        potential.graph,
        settings.steps,
        keep_path=settings.trajectory is not None,
        workers=settings.workers,
    )
    if settings.trajectory is not None:
        settings.trajectory.mkdir(parents=True, exist_ok=True)
    reporter.begin(f"relaxing with {base.name}", len(found) - len(done), unit="structures")
    theta = Theta(base.params, rule.hyper)
    for final in relax_many(theta, structures, buckets=[b for b in left if b.members], should_stop=stop):
        one = found[final.index]
        if settings.trajectory is not None:
            write_path(settings.trajectory / f"{final.structure.name}.extxyz", one, final)
        output.append(final.structure.name, relaxed_frame(one, final, base.name))
        _tell(final, reporter)
    reporter.end()


def _tell(final: Final, reporter: Reporter) -> None:
    name = final.structure.name
    reporter.advance(structure=name, steps=final.steps, fmax=final.max_force)
    if not final.converged:
        reporter.warn(
            f"{name}: {ENDINGS[final.outcome]} (step {final.steps}, fmax {final.max_force:.3g} eV/A)"
        )


def _check_endings(endings: Mapping[str, str], path: Path) -> None:
    """Name the relaxations that failed."""
    failures = (ENDINGS[Outcome.NOT_FINITE], ENDINGS[Outcome.STALE_NEIGHBORS])
    failed = [f"{name} ({ending})" for name, ending in endings.items() if ending in failures]
    if failed:
        raise RelaxationError(
            f"{len(failed)} of {len(endings)} relaxations failed: {', '.join(failed)}. Check these structures; the "
            f"model may be far from what it was trained on. All that came of it: {path} ({summary(endings)})"
        )


def _listed(problems: Sequence[Problem]) -> str:
    """Names of what problems are about, each once."""
    return ", ".join(dict.fromkeys(problem.name or problem.source for problem in problems))


def _digest(found: Sequence[Found]) -> str:
    """Of names, elements, positions, cells and constraints, in this order."""
    digest = hashlib.sha256()
    for one in found:
        digest.update(one.structure.name.encode())
        for array in one.structure[1:]:
            digest.update(array.tobytes())
    return digest.hexdigest()
