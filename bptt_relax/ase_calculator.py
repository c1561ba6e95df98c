"""Any potential as an ASE calculator: for ASE's optimizers, molecular dynamics, phonons and whatever else asks ASE."""

from functools import lru_cache
from math import ceil
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from bptt_relax import neighbors, systems
from bptt_relax._types import Params, Positions
from bptt_relax.io import to_structure
from bptt_relax.neighbors import Capacity
from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.potentials import Potential, Prediction
from bptt_relax.systems import Layout, System

ROOM = 2.0
"""How much larger lists are made than a structure needs them, from the second program on: others share it. The first
may be all there is, of a long trajectory of one structure, and has no padding to pay for."""

SMALL = 3000.0
"""Entries of all lists that are made at least; CHGNet needs as many for a cell of 32 atoms. Less saves no time."""

MOST_PADDING = 4.0
"""A structure shares a program whose lists are longer than its own by this factor at most."""


class ASECalculator(Calculator):
    """Energy (eV), forces (eV/angstrom) and stress (eV/angstrom^3, Voigt) of a potential, as far as it has them.

    A potential with direct forces has no energy and no stress: asking for them raises ASE's
    PropertyNotImplementedError. ASE's optimizers write an energy into their log, so they refuse such a potential;
    molecular dynamics needs forces alone, and `batches.RelaxMany` relaxes with them.

    Neighbors are rebuilt only when an atom has moved further than half the skin or the cell has changed too much.
    Lists are padded, so that one compiled program serves every step of many structures, of all calculators with this
    potential, in JAX's default precision. Energies that an optimizer
    or a long trajectory compares to less than 1e-5 of their size want ``jax_enable_x64``.

    Attributes:
        rebuilds: how often neighbors were built for the present composition.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012
    default_parameters = {}  # noqa: RUF012
    discard_results_on_any_change = True

    def __init__(self, potential: Potential, params: Params, *, skin: float = 1.0) -> None:
        """Wrap a potential.

        Args:
            potential: the potential.
            params: its parameters.
            skin: how much further than the cutoff neighbors are listed, angstrom.

        Raises:
            ValueError: a negative skin.
        """
        super().__init__()
        if not skin >= 0:
            raise ValueError(f"skin={skin} must not be negative; 1.0 angstrom is a good start")
        self.potential, self.params, self.skin = potential, params, skin
        self.rebuilds = 0
        self.implemented_properties = [
            *(("free_energy",) if "energy" in potential.predicts else ()),
            *potential.predicts,
        ]
        self._system: System | None = None
        self._cell = np.zeros((3, 3))
        self._program = _program(potential)

    def calculate(
        self, atoms: Atoms | None = None, properties=("energy",), system_changes=tuple(all_changes)
    ) -> None:
        """Fill ``results``; ASE calls this.

        Raises:
            InputError: an element that the potential does not cover.
            ModelError: the potential gives an energy or forces that are not finite.
            PropertyNotImplementedError: it gives no energy or no stress, and that is what is asked for.
        """
        if unknown := sorted(set(properties) - set(self.implemented_properties)):
            raise PropertyNotImplementedError(
                f"{self.potential.name} predicts {', '.join(self.implemented_properties)} and no {unknown[0]}"
            )
        super().calculate(atoms, properties, system_changes)
        atoms = cast(Atoms, self.atoms)
        prediction = self._answer(atoms)
        forces = np.asarray(prediction.forces, np.float64)[: len(atoms)]
        energy = None if prediction.energy is None else float(prediction.energy)
        if not (np.all(np.isfinite(forces)) and (energy is None or np.isfinite(energy))):
            raise ModelError(
                f"{self.potential.name} gives an energy or forces that are not finite for {atoms.symbols}: "
                "check for overlapping atoms or a time step that is too long"
            )
        self.results = {"forces": forces}
        if energy is not None:
            self.results |= {"energy": energy, "free_energy": energy}
        if prediction.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(np.asarray(prediction.stress, np.float64))

    def _answer(self, atoms: Atoms) -> Prediction:
        system = self._present_system(atoms)
        positions = np.pad(atoms.positions, ((0, len(system.mask) - len(atoms)), (0, 0)))
        prediction, overflow = self._program(self.params, positions, system)
        if not overflow:
            return prediction
        self._system = systems.rebuild_neighbors(positions, system)
        self.rebuilds += 1
        prediction, overflow = self._program(self.params, positions, self._system)
        if overflow:
            raise ModelError(f"the neighbors of {atoms.symbols} are not complete right after they were built")
        return prediction

    def _present_system(self, atoms: Atoms) -> System:
        """The system as it was, with the present cell; a new one where composition or periodicity differ."""
        system, cell = self._system, np.asarray(atoms.cell)
        if system is None or not _same_kind(system, atoms):
            system = self._new_system(atoms)
        elif not np.array_equal(cell, self._cell):
            # A cell without three vectors is completed around the atoms, which is for a new system to do.
            full = atoms.cell.rank == 3
            system = system._replace(cell=jnp.asarray(cell, float)) if full else self._new_system(atoms)
        self._system, self._cell = system, cell.copy()
        return system

    def _new_system(self, atoms: Atoms) -> System:
        covered = self.potential.elements
        if missing := sorted(set(atoms.numbers.tolist()) - set(covered)) if covered else []:
            raise InputError(
                f"{self.potential.name} does not cover {', '.join(chemical_symbols[z] for z in missing)} "
                f"({len(covered)} elements listed)"
            )
        bare = atoms.copy()
        # ASE applies constraints to the forces itself, whatever kind they are.
        bare.set_constraint()
        structure, spec = to_structure(bare, str(atoms.symbols)), self.potential.graph
        layout = self._program.layout(systems.plan_layout([structure], spec, skin=self.skin))
        _, system = systems.prepare(structure, spec, layout, skin=self.skin)
        self.rebuilds = 1
        return system


def _same_kind(system: System, atoms: Atoms) -> bool:
    """Whether a system has the composition and the periodicity of these atoms."""
    same_species = np.array_equal(np.asarray(system.species)[np.asarray(system.mask)], atoms.numbers)
    return same_species and np.array_equal(np.asarray(system.pbc), atoms.pbc)


class _Program:
    """What a potential says, compiled for few layouts, each with room for more than one structure."""

    def __init__(self, potential: Potential) -> None:
        @jax.jit
        def predict(params: Params, positions: Positions, system: System) -> tuple[Prediction, jax.Array]:
            graph = neighbors.refresh(system.candidates, positions, system.cell)
            return potential.apply(params, positions, system, graph), graph.overflow

        self._predict = predict
        self._layouts: set[Layout] = set()

    def __call__(self, params: Params, positions: np.ndarray, system: System) -> tuple[Prediction, jax.Array]:
        assert system.candidates is not None
        # Lists that were too short have grown since their layout was chosen.
        self._layouts.add(Layout(len(system.mask), neighbors.capacity_of(system.candidates)))
        return self._predict(params, positions.astype(system.masses.dtype), system)

    def layout(self, needed: Layout) -> Layout:
        """One that is in use and not much too large, or a new one with room."""
        most = max(MOST_PADDING * _entries(needed), 2 * SMALL)
        fitting = [
            known
            for known in self._layouts
            if known.num_atoms >= needed.num_atoms
            and all(have >= need for have, need in zip(known.capacity, needed.capacity, strict=True))
            and _entries(known) <= most
        ]
        return min(fitting, key=_entries, default=_with_room(needed, ROOM if self._layouts else 1.0))


@lru_cache(maxsize=8)
def _program(potential: Potential) -> _Program:
    """Of all calculators with this potential."""
    return _Program(potential)


def _with_room(needed: Layout, room: float) -> Layout:
    factor = max(room, SMALL / _entries(needed))
    # Some potentials look at all pairs of atoms, which lists don't count.
    num_atoms = min(ceil(factor * needed.num_atoms), max(64, ceil(room * needed.num_atoms)))
    return Layout(num_atoms, Capacity(*(ceil(factor * length) for length in needed.capacity)))


def _entries(layout: Layout) -> float:
    """Of all lists, a candidate counting as in `batches.plan_buckets`."""
    candidates, *graph = layout.capacity
    return layout.num_atoms + 0.1 * candidates + sum(graph)
