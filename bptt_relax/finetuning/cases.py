"""From relaxations on the host to padded pairs and frames on the device, one layout for all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bptt_relax import systems, trees
from bptt_relax.adjoints import named
from bptt_relax.io.checks import changes_cell
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.neighbors import GraphSpec
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential
from bptt_relax.systems import Layout, Pair, Structure
from bptt_relax.training import Example, LabelledFrame

Examples = Callable[[int], Iterator[Example]]
"""Epoch -> examples."""


@dataclass(frozen=True)
class Cases:
    """Relaxations ready for one potential.

    Attributes:
        spec: graph the potential asks for.
        layout: padded sizes, shared by everything made here.
        skin: of the neighbor lists, angstrom.
        move_cells: some relaxations relax their cell too; all frames then have a place for a stress.
    """

    spec: GraphSpec
    layout: Layout
    skin: float
    move_cells: bool = False

    def pair(self, relaxation: Relaxation, start: Structure | None = None) -> Pair:
        """Start and target of a relaxation.

        Args:
            relaxation: gives the target.
            start: where to start; its initial structure when not given.
        """
        start = relaxation.initial if start is None else start
        return systems.prepare_pair(
            start,
            relaxation.relaxed,
            self.spec,
            self.layout,
            skin=self.skin,
            free_cell=changes_cell(relaxation),
        )

    def frames(self, relaxation: Relaxation) -> list[LabelledFrame]:
        """Every ionic step from the start on that has forces; where none has, the last with forces of zero."""
        forces_of = relaxation.forces
        if forces_of is None:
            forces_of = np.full((len(relaxation.frames), len(relaxation.relaxed.species), 3), np.nan)
            forces_of[-1] = 0.0
        labelled = []
        for index in range(relaxation.start, len(relaxation.frames)):
            if not np.all(np.isfinite(forces_of[index])):
                continue
            stress = None if relaxation.stresses is None else relaxation.stresses[index]
            labelled.append(self.frame(relaxation.frames[index], forces_of[index], stress))
        return labelled

    def frame(
        self, structure: Structure, forces: np.ndarray, stress: np.ndarray | None = None
    ) -> LabelledFrame:
        """One configuration with its forces (n, 3), eV/angstrom, and its stress (3, 3), eV/angstrom^3, if known."""
        positions, system = systems.prepare(structure, self.spec, self.layout, skin=self.skin)
        padded = np.pad(forces, ((0, positions.shape[0] - len(forces)), (0, 0)))
        frame = LabelledFrame(positions, jnp.asarray(padded, positions.dtype), system)
        if not self.move_cells:
            return frame
        stress = np.full((3, 3), np.nan) if stress is None else stress
        return frame._replace(stress=jnp.asarray(stress, positions.dtype))


def make_cases(
    relaxations: Sequence[Relaxation], spec: GraphSpec, skin: float, elements: Sequence[int] = ()
) -> Cases:
    """Plan one layout for all ionic steps of all relaxations.

    Args:
        relaxations: everything that will be trained or tested on.
        spec: graph the potential asks for.
        skin: angstrom.
        elements: atomic numbers the potential covers; empty for any.

    Raises:
        InputError: an element the potential does not cover.
    """
    check_elements(relaxations, elements)
    structures = [frame for r in relaxations for frame in r.frames[r.start :]]
    move_cells = any(map(changes_cell, relaxations))
    # A cell that shrinks on the way brings more neighbors into reach than any that is in the data.
    headroom = 1.4 if move_cells else 1.15
    return Cases(spec, systems.plan_layout(structures, spec, skin=skin, headroom=headroom), skin, move_cells)


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


@dataclass(frozen=True)
class Starts:
    """Where unrolls start in training: they decide which basins the gradient sees.

    Attributes:
        from_initial: share that starts at the initial structure.
        from_ionic_step: share that starts at a random ionic step; the rest at the rattled reference structure.
        rattle: range of the standard deviation of the rattle, angstrom.
        strain: standard deviation of the components of the strain that goes with it where the cell is relaxed too.
    """

    from_initial: float
    from_ionic_step: float
    rattle: tuple[float, float]
    strain: float = 0.0

    def draw(self, relaxation: Relaxation, rng: np.random.Generator) -> Structure:
        """One starting structure."""
        choice = rng.uniform()
        if choice < self.from_initial:
            return relaxation.initial
        if choice < self.from_initial + self.from_ionic_step:
            return relaxation.frames[int(rng.integers(relaxation.start, len(relaxation.frames) - 1))]
        noise = rng.normal(scale=rng.uniform(*self.rattle), size=relaxation.relaxed.positions.shape)
        target = relaxation.relaxed
        rattled = target._replace(positions=target.positions + np.where(target.free, noise, 0.0))
        return (
            strained(rattled, rng.normal(scale=self.strain, size=6)) if changes_cell(relaxation) else rattled
        )


def strained(structure: Structure, strain: np.ndarray) -> Structure:
    """A structure under a strain (6,) in ASE's order xx, yy, zz, yz, xz, xy; axes without periods stay."""
    xx, yy, zz, yz, xz, xy = strain
    stretch = np.eye(3) + np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    cell = np.where(structure.pbc[:, None], structure.cell @ stretch, structure.cell)
    fractional = structure.positions @ np.linalg.inv(structure.cell)
    return structure._replace(positions=fractional @ cell, cell=cell)


def bptt_examples(
    cases: Cases, relaxations: Sequence[Relaxation], starts: Starts, seed: int
) -> Callable[[int], Iterator[Example]]:
    """Epoch -> one unroll per relaxation, in random order from random starts; the same each time it is asked."""

    def epoch_examples(epoch: int) -> Iterator[Example]:
        rng = np.random.default_rng([seed, epoch, 1])
        for index in rng.permutation(len(relaxations)):
            # Drawn per relaxation, so that resuming within an epoch meets the same starts.
            own = np.random.default_rng([seed, epoch, 2, int(index)])
            relaxation = relaxations[index]
            yield Example(relaxation.name, cases.pair(relaxation, starts.draw(relaxation, own)))

    return epoch_examples


def force_examples(
    frames: Sequence[tuple[str, LabelledFrame]], batch_size: int, seed: int
) -> Callable[[int], Iterator[Example]]:
    """Epoch -> batches over all ionic steps in random order; incomplete batches are left out.

    Args:
        frames: ionic steps with the name of their relaxation.
        batch_size: ionic steps per batch, at most as many as there are frames.
        seed: of the order.
    """
    num_batches = len(frames) // batch_size

    def epoch_examples(epoch: int) -> Iterator[Example]:
        order = np.random.default_rng([seed, epoch, 3]).permutation(len(frames))
        for batch in order[: num_batches * batch_size].reshape(num_batches, batch_size):
            names = sorted({frames[index][0] for index in batch})
            yield Example("+".join(names), trees.stack([frames[index][1] for index in batch]))

    return epoch_examples


def with_frames(
    examples: Examples, frames: Sequence[tuple[str, NamedTuple]], batch_size: int, seed: int
) -> Examples:
    """Add to each example a batch of random ones of these frames, which have a name each."""

    def epoch_examples(epoch: int) -> Iterator[Example]:
        for index, example in enumerate(examples(epoch)):
            chosen = np.random.default_rng([seed, epoch, 4, index]).integers(len(frames), size=batch_size)
            yield Example(example.name, (example.data, trees.stack([frames[k][1] for k in chosen])))

    return epoch_examples
