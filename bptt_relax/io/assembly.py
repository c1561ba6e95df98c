"""From the steps of a file to a relaxation: same atoms in the same order, no jumps across boundaries."""

from typing import Any

import numpy as np
from ase import Atoms

from bptt_relax.io import atoms as conversion
from bptt_relax.io import geometry, matching
from bptt_relax.io.atoms import DEFAULT_KEYS, LabelKeys
from bptt_relax.io.problems import Problem, safe_name
from bptt_relax.io.records import Record
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.systems import Structure

_PLAIN = (str, int, float, bool, np.integer, np.floating, np.bool_)


def assemble(
    record: Record, *, keys: LabelKeys = DEFAULT_KEYS, reorder: bool = False, pbc: bool | None = None
) -> tuple[Relaxation | None, list[Problem]]:
    """Make a relaxation of the steps of a record.

    Args:
        record: as read.
        keys: where labels stand.
        reorder: apply a permutation where one is found; otherwise it is only proposed.
        pbc: overrides the file's periodic boundary conditions.

    Returns:
        The relaxation, or None where a problem keeps it from being one, and all that was found.
    """
    name = safe_name(record.name)
    problems: list[Problem] = []

    def say(text: str, fix: str = "", *, fatal: bool = True) -> None:
        problems.append(Problem(record.source, name, text, fix, fatal))

    for note in record.notes:
        say(f"reader says: {note}", fatal=False)
    steps = _usable_steps(record, say)
    if not steps:
        return None, problems
    if not len(steps[0]):
        say("the structure has no atoms")
        return None, problems
    for constraint in conversion.unsupported_constraints(steps[0]):
        say(f"constraint {constraint} can't be expressed as fixed atoms or components: ignored", fatal=False)
    frames = _frames(steps, name, pbc, record.course.free)
    orders = _align(frames, say, reorder)
    if orders is None:
        return None, problems
    crossings = _unwrap(frames)
    try:
        labels = [conversion.labels(step, keys) for step in steps]
    except (KeyError, ValueError) as error:
        found = sorted(
            {*steps[-1].arrays, *steps[-1].info, *(steps[-1].calc.results if steps[-1].calc else {})}
        )
        say(f"no usable label under key {error}", f"keys found: {', '.join(map(str, found))}")
        return None, problems
    forces = _stack([None if x.forces is None else x.forces[o] for x, o in zip(labels, orders, strict=True)])
    carried = steps[-1].info
    kind = carried.get("kind", carried.get("config_type"))
    info: dict[str, Any] = {k: v for k, v in carried.items() if isinstance(v, _PLAIN)}
    info |= {
        "source": record.source,
        "crossings": crossings,
        "energy_kind": labels[-1].energy_kind,
        "possible_forces": conversion.possible_forces(steps[-1]),
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
    )
    return relaxation, problems


def _usable_steps(record: Record, say) -> list[Atoms]:
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


def _align(frames: list[Structure], say, reorder: bool) -> list[np.ndarray] | None:
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
                    "apply it with reorder=True (--reorder)",
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
