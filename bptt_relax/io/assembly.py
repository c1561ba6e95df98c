"""From the steps of a file to a relaxation: same atoms in the same order, no jumps across boundaries."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from bptt_relax.io import atoms as conversion
from bptt_relax.io import geometry, matching
from bptt_relax.io.atoms import LabelKeys, Labels
from bptt_relax.io.calculation import RELAXATION
from bptt_relax.io.options import DEFAULT_OPTIONS, ReadOptions, use
from bptt_relax.io.problems import Problem, safe_name
from bptt_relax.io.records import Record
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.systems import Structure

_PLAIN = (str, int, float, bool, np.integer, np.floating, np.bool_)


Say = Callable[..., None]
"""(text, fix, fatal=True) -> None: notes a problem."""


def assemble(
    record: Record, options: ReadOptions = DEFAULT_OPTIONS
) -> tuple[Relaxation | None, list[Problem]]:
    """Make a relaxation of the steps of a record.

    Args:
        record: as read.
        options: where labels stand, whether to reorder, periodicity.

    Returns:
        The relaxation, or None where a problem keeps it from being one, and all that was found.
    """
    name = safe_name(record.name)
    problems: list[Problem] = []

    def say(text: str, fix: str = "", *, fatal: bool = True) -> None:
        problems.append(Problem(record.source, name, text, fix, fatal))

    for note in record.notes:
        say(f"reader says: {note}", fatal=False)
    if _is_something_else(record, say):
        return None, problems
    steps = _usable_steps(record, say)
    if not steps:
        return None, problems
    if not len(steps[0]):
        say("the structure has no atoms")
        return None, problems
    for sentence in conversion.unsupported_constraints(steps[0]):
        say(sentence, conversion.CONSTRAINT_FIX)
    unknown = [
        (t, atom)
        for t, step in enumerate(steps)
        for atom in np.flatnonzero((step.numbers < 1) | (step.numbers >= len(chemical_symbols)))[:1]
    ]
    if unknown:
        t, atom = unknown[0]
        number = steps[t].numbers[atom]
        say(
            f"atom {atom} of step {t} is no element (atomic number {number})",
            "name its element, or leave it out",
        )
    if any(problem.fatal for problem in problems):
        return None, problems
    keys = LabelKeys(options.energy_key, options.forces_key, options.stress_key, options.virial_key)
    labels = _labels(steps, keys, say)
    if labels is None:
        return None, problems
    unused = conversion.unused(steps[-1], keys)
    kept = _finite(labels, say)
    if not kept:
        return None, problems
    steps, labels = [steps[t] for t in kept], [labels[t] for t in kept]
    frames = _frames(steps, name, options.pbc, record.course.free)
    orders = _align(frames, say, options.reorder)
    if orders is None:
        return None, problems
    crossings = _unwrap(frames)
    forces = _stack([None if x.forces is None else x.forces[o] for x, o in zip(labels, orders, strict=True)])
    carried = steps[-1].info
    kind = carried.get("kind", carried.get("config_type"))
    info: dict[str, Any] = {k: v for k, v in carried.items() if isinstance(v, _PLAIN)}
    info |= {
        "source": record.source,
        "crossings": crossings,
        "energy_kind": labels[-1].energy_kind,
        "unused": unused,
        "by_key": record.by_key,
        "is_pair": record.is_pair,
        "cell_given": bool(np.any(steps[0].cell.array)),
    }
    relaxation = Relaxation(
        name=name,
        group=safe_name(str(carried["group"])) if "group" in carried else name,
        kind=safe_name(str(kind)) if kind is not None else matching.formula(frames[0].species),
        frames=tuple(frames),
        energies=_stack([x.energy for x in labels]),
        forces=forces,
        stresses=_stack([x.stress for x in labels]),
        converged=record.course.converged,
        info=info,
        calculation=record.calculation,
    )
    return relaxation, problems


def _is_something_else(record: Record, say: Say) -> bool:
    """Say so where an output is none of one relaxation."""
    task = record.calculation.task
    if task not in (None, RELAXATION):
        say(f"not a relaxation: {task}", "leave it out, or give the run that relaxed the structure")
        return True
    if record.course.runs > 1:
        say(
            f"the file holds {record.course.runs} runs, one appended to the other",
            "split it into one file for each",
        )
        return True
    return False


def _labels(steps: list[Atoms], keys: LabelKeys, say: Say) -> list[Labels] | None:
    """Labels of all steps; None where a key that was given can't be used."""
    try:
        return [conversion.labels(step, keys) for step in steps]
    except (KeyError, ValueError) as error:
        last = steps[-1]
        found = {*last.arrays, *last.info, *(last.calc.results if last.calc else {})}
        given = [use(f"{field}_key", value) for field, value in keys._asdict().items() if value is not None]
        say(
            f"no usable label under key {error.args[0] if error.args else error}",
            f"found are {', '.join(sorted(map(str, found)))}; given was {', '.join(given)}",
        )
        return None


def _finite(labels: list[Labels], say: Say) -> list[int]:
    """Indices of the steps all of whose labels are numbers; none where the last one, the target, has others."""
    bad: dict[int, list[str]] = {}
    for t, label in enumerate(labels):
        for what in ("energy", "forces", "stress"):
            value = getattr(label, what)
            if value is not None and not _is_finite(value).all():
                bad.setdefault(t, []).append(what)
    if not bad:
        return list(range(len(labels)))
    last = len(labels) - 1
    if last in bad:
        what = bad[last][0]
        if what == "forces":
            forces = labels[last].forces
            assert forces is not None
            what = f"force on atom {int(np.flatnonzero(~_is_finite(forces).all(axis=1))[0])}"
        say(f"{what} is NaN or infinite at the last step", "repair or remove the structure")
        return []
    listed = ", ".join(f"{' and '.join(what)} at step {t}" for t, what in list(bad.items())[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    say(f"NaN or infinite: {listed}{more}; {len(bad)} of {len(labels)} steps left out", fatal=False)
    return [t for t in range(len(labels)) if t not in bad]


def _is_finite(values) -> np.ndarray:
    """Whether labels are numbers; nothing that is computed atom by atom comes near 1e9 eV."""
    return np.abs(values) < 1e9


def _usable_steps(record: Record, say: Say) -> list[Atoms]:
    """Leave out steps without a converged electronic ground state and those of another calculation."""
    steps = record.steps[: len(record.steps) - record.course.extra_steps]
    bad = sorted(t for t in record.course.unconverged_steps if t < len(steps))
    if bad and bad[-1] == len(steps) - 1:
        say(
            "the electronic loop did not converge at the last step",
            "run it again with more electronic steps (NELM, electron_maxstep)",
        )
        return []
    if bad:
        listed = ", ".join(map(str, bad[:5]))
        say(f"{len(bad)} steps left out ({listed}): the electronic loop did not converge", fatal=False)
    return [step for t, step in enumerate(steps) if t not in bad]


def _frames(steps: list[Atoms], name: str, pbc: bool | None, free: np.ndarray | None) -> list[Structure]:
    if pbc is not None:
        for step in steps:
            step.pbc = pbc
    first = conversion.to_structure(steps[0], name)
    raw = steps[0].cell.array
    # The start decides what is held: an end written without its constraints is the same relaxation.
    held = first.free if free is None or free.shape != first.free.shape else first.free & free
    frames = []
    for step in steps:
        shared = first.cell if np.array_equal(step.cell.array, raw) else None
        frame = conversion.to_structure(step, name, cell=shared)
        frames.append(frame._replace(free=held) if len(held) == len(frame.species) else frame)
    return frames


def _align(frames: list[Structure], say: Say, reorder: bool) -> list[np.ndarray] | None:
    """Bring the atoms of all frames into the order of the first, in place. None: they don't correspond."""
    first = frames[0]
    orders = [np.arange(len(first.species))]
    for t in range(1, len(frames)):
        frame = frames[t]
        if len(frame.species) != len(first.species):
            say(
                f"step {t} has {len(frame.species)} atoms, the first has {len(first.species)}",
                "give index-matched structures; mark frames of different relaxations by an info key `job`",
            )
            return None
        if not matching.same_atoms(first, frame):
            say(
                f"step {t} is {matching.formula(frame.species)}, the first is {matching.formula(first.species)}",
                "give structures of the same atoms",
            )
            return None
        # What is wrong with a structure without distances is said by the checks.
        if not (geometry.measurable(frames[t - 1]) and geometry.measurable(frame)):
            orders.append(np.arange(len(first.species)))
            continue
        found = matching.match(frames[t - 1], frame)
        if found.ambiguous:
            say(
                f"the atoms of step {t} are in another order, and no reordering brings all of them within "
                f"{matching.FAR:g} angstrom (best: {found.assigned:.2f})",
                "write both structures in the same order",
            )
            return None
        if not found.identity:
            moved = int(np.sum(found.order != np.arange(len(found.order))))
            text = (
                f"the atoms of step {t} are in another order: by index an atom moves {found.indexed:.2f} angstrom, "
                f"reordered {found.assigned:.2f}; {moved} atoms change places"
            )
            if not reorder:
                say(
                    f"{text}; permutation {_abbreviate(found.order)}",
                    f"apply it with {use('reorder')}",
                )
                return None
            say(f"{text}: reordered", fatal=False)
        frames[t] = matching.reorder(frame, found.order)._replace(free=frame.free)
        orders.append(found.order)
    return orders


def _unwrap(frames: list[Structure]) -> int:
    """Follow every atom from frame to frame across boundaries, in place. Returns how many atoms crossed one."""
    crossed: set[int] = set()
    for t in range(1, len(frames)):
        before, frame = frames[t - 1], frames[t]
        if not (geometry.measurable(before) and geometry.measurable(frame)):
            continue
        images = np.round(geometry.fractional_displacement(before, frame, minimum_image=False))
        images = np.where(frame.pbc, images, 0.0)
        if images.any():
            crossed |= set(np.flatnonzero(images.any(axis=1)).tolist())
            frames[t] = frame._replace(positions=frame.positions - images @ frame.cell)
    return len(crossed)


def _stack(values: list) -> np.ndarray | None:
    """Labels of all steps, NaN where a step has none; None where no step has one."""
    present = [v for v in values if v is not None]
    if not present:
        return None
    empty = np.full(np.shape(present[0]), np.nan)
    return np.stack([empty if v is None else np.asarray(v, np.float64) for v in values])


def _abbreviate(order: np.ndarray) -> str:
    text = " ".join(map(str, order[:12]))
    return f"{text} ..." if len(order) > 12 else text
