"""From relaxations on the host to padded pairs and frames, in few layouts, each prepared once."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import numpy as np

from bptt_relax import batches, systems, trees
from bptt_relax._types import Forces, Positions, Stress
from bptt_relax.adjoints import named
from bptt_relax.batches import Bucket
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential
from bptt_relax.systems import Layout, Pair, Structure, System
from bptt_relax.training import LabelledFrame

MEASURED = 4
"""Ionic steps of a relaxation that its layout is planned with; there is headroom for those between."""

SHARED = 0.25
"""Share of the skin by which a start may lie away from the structure whose neighbor list it shares."""


class Preparation:
    """Prepares relaxations for one potential: padding and neighbor lists, by buckets of similar size.

    Structures are kept as they were prepared, in numpy: a list is built once, whatever the number of epochs. May be
    used by several threads.

    Args:
        relaxations: everything that will be trained or tested on.
        potential: the model's functions.
        skin: of the neighbor lists, angstrom.

    Attributes:
        spec: graph the potential asks for.
        skin: of the neighbor lists, angstrom.
        buckets: by size, the largest structures first.
        move_cells: some relaxations relax their cell too; all frames then have a place for a stress.

    Raises:
        InputError: an element the potential does not cover.
    """

    def __init__(self, relaxations: Sequence[Relaxation], potential: Potential, skin: float):
        check_elements(relaxations, potential.elements)
        self.spec, self.skin = potential.graph, skin
        self.move_cells = any(map(changes_cell, relaxations))
        unique = list({r.name: r for r in relaxations}.values())
        # A cell that shrinks on the way brings more neighbors into reach than any that is in the data.
        headroom = 1.4 if self.move_cells else 1.15
        self.buckets = batches.plan_buckets(
            [_few(r) for r in unique], self.spec, skin=skin, headroom=headroom
        )
        self._layouts = {
            unique[index].name: bucket.layout for bucket in self.buckets for index in bucket.members
        }
        # By identity, the structure being kept along so that it stays what it is.
        self._prepared: dict[int, tuple[Structure, np.ndarray, System]] = {}

    def describe(self) -> str:
        """Buckets and padding in one line."""
        return batches.describe(self.buckets)

    def moves_cell(self, relaxation: Relaxation) -> bool:
        """Whether it relaxes its cell too."""
        return changes_cell(relaxation)

    def layout(self, name: str) -> Layout:
        """Padded sizes of a relaxation."""
        return self._layouts[name]

    def bucketed(self, names: Sequence[str]) -> list[Bucket]:
        """The named relaxations by layout; members are indices into ``names``."""
        by_layout: dict[Layout, list[int]] = {}
        for index, name in enumerate(names):
            by_layout.setdefault(self._layouts[name], []).append(index)
        return [Bucket(layout, tuple(members), 1.0, 1.0) for layout, members in by_layout.items()]

    def pair(self, relaxation: Relaxation, start: Structure | None = None) -> Pair:
        """Start and target of a relaxation.

        Args:
            relaxation: gives the target.
            start: where to start; its initial structure when not given.
        """
        layout = self._layouts[relaxation.name]
        positions, system = self._start(relaxation, relaxation.initial if start is None else start, layout)
        target, there = self._once(relaxation.relaxed, layout)
        # In numpy until a batch is stacked, which is when it goes to a device.
        initial, relaxed = cast(Positions, positions), cast(Positions, target)
        return Pair(initial, relaxed, system, there.cell if changes_cell(relaxation) else None)

    def frame(self, step: "IonicStep") -> LabelledFrame:
        """One ionic step with its forces, and with its stress where cells move."""
        relaxation, index = step
        positions, system = self._once(relaxation.frames[index], self._layouts[relaxation.name])
        forces = np.zeros_like(positions)
        if relaxation.forces is not None:
            forces[: len(relaxation.relaxed.species)] = relaxation.forces[index]
        frame = LabelledFrame(cast(Positions, positions), cast(Forces, forces), system)
        if not self.move_cells:
            return frame
        stress = np.full((3, 3), np.nan) if relaxation.stresses is None else relaxation.stresses[index]
        return frame._replace(stress=cast(Stress, np.asarray(stress, positions.dtype)))

    def _start(self, relaxation: Relaxation, start: Structure, layout: Layout) -> tuple[np.ndarray, System]:
        """A start; one close to the reference structure is found on the neighbor list of that."""
        if any(start is frame for frame in relaxation.frames):
            return self._once(start, layout)
        reference = relaxation.relaxed
        moved = np.abs(start.positions - reference.positions).max()
        if moved > SHARED * self.skin or np.any(start.cell != reference.cell):
            return self._build(start, layout)
        positions, system = self._once(reference, layout)
        positions = positions.copy()
        positions[: len(start.positions)] = start.positions
        return positions, system

    def _once(self, structure: Structure, layout: Layout) -> tuple[np.ndarray, System]:
        if id(structure) not in self._prepared:
            self._prepared[id(structure)] = structure, *self._build(structure, layout)
        return self._prepared[id(structure)][1:]

    def _build(self, structure: Structure, layout: Layout) -> tuple[np.ndarray, System]:
        # Made for the processor: nothing travels to an accelerator and back to be stacked.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return trees.on_host(systems.prepare(structure, self.spec, layout, skin=self.skin))


class IonicStep(NamedTuple):
    """One ionic step of a relaxation.

    Attributes:
        relaxation: with its labels.
        index: of the frame.
    """

    relaxation: Relaxation
    index: int


def ionic_steps(relaxation: Relaxation) -> list[IonicStep]:
    """Those from the start on that have forces; where none has, the last, whose forces are taken to be zero."""
    if relaxation.forces is None:
        return [IonicStep(relaxation, len(relaxation.frames) - 1)]
    known = np.flatnonzero(np.all(np.isfinite(relaxation.forces), axis=(1, 2)))
    return [IonicStep(relaxation, int(index)) for index in known if index >= relaxation.start]


def _few(relaxation: Relaxation) -> list[Structure]:
    """Some ionic steps, first and last among them."""
    steps = np.linspace(relaxation.start, len(relaxation.frames) - 1, MEASURED).round().astype(int)
    return [relaxation.frames[k] for k in dict.fromkeys(steps.tolist())]


def check_elements(relaxations: Sequence[Relaxation], elements: Sequence[int]) -> None:
    """Refuse elements that the potential was not made for.

    Raises:
        InputError: naming each of them, with a structure that has it.
    """
    from ase.data import chemical_symbols

    if not elements:
        return
    missing: dict[int, str] = {}
    for relaxation in relaxations:
        for number in set(relaxation.initial.species.tolist()) - set(elements):
            missing.setdefault(number, relaxation.name)
    if missing:
        listed = ", ".join(f"{chemical_symbols[z]} (in {name})" for z, name in sorted(missing.items()))
        raise InputError(
            f"the model does not cover {listed}; it covers {len(elements)} elements. Choose another --model or "
            "leave these structures out"
        )


def check_cells(relaxations: Sequence[Relaxation], potential: Potential, adjoint: str) -> None:
    """Refuse relaxations of the cell where the potential has no stress, or the adjoint looks at fixed points alone.

    Raises:
        InputError: with the relaxations' names.
    """
    moving = [r.name for r in relaxations if changes_cell(r)]
    if moving and "stress" not in potential.predicts:
        raise InputError(
            f"the cell changes in {len(moving)} relaxations ({', '.join(moving[:5])}), and {potential.name} predicts "
            "no stress: take another --model, or leave them out; `bptt-relax finetune` takes the atoms in their final "
            "cell with --reading.in-relaxed-cell"
        )
    if moving and named(adjoint).needs_fixed_cell:
        raise InputError(
            f"the cell changes in {len(moving)} relaxations ({', '.join(moving[:5])}), and --bptt.adjoint {adjoint} "
            "differentiates relaxations at fixed cell: take full, first_K or last_K"
        )
