"""A relaxation of positions and cell together, through the logarithm of the deformation gradient.

Coordinates. With h0 the cell of the start, rows lattice vectors, and F the deformation gradient,

    h = h0 F^T,    x_i = F y_i,    F = exp(L):

the relaxation moves y, the positions carried back into the cell of the start, and L. At given y the energy depends on
L through the strain alone, dE/dL = exp'(L)^T [V sigma F^-T], with the stress sigma from the potential and exp' the
Frechet derivative of the matrix exponential. The rule sees three more rows: y, then c L, with the forces F^T f and
-(dE/dL) / c. These are the coordinates of ``ase.filters.FrechetCellFilter``, and exactly minus the gradient of the
energy in every mode, so that fixed points are minima and gradients those of the relaxation.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Cell, Forces, Positions, PyTree, Scalar, Stress
from bptt_relax.potentials import Potential
from bptt_relax.relax._contract import Evaluation, Relaxation, RelaxState, UpdateRule
from bptt_relax.relax._exponential import matrix_exp
from bptt_relax.relax._step import Proposal, advancing, check_tolerances, evaluation, initial_state
from bptt_relax.relax._strain import Strain, periodic_span, projection
from bptt_relax.systems import System
from bptt_relax.trees import safe_norm

NO_STRESS = "{name} predicts no stress, which a variable cell needs: take relax.relaxation, or a conservative potential"


class CellState(NamedTuple):
    """State of a variable-cell relaxation besides positions and cell: its ``RelaxState.rule``.

    Attributes:
        rule: state of the update rule, for N + 3 rows.
        reference: (3, 3) angstrom, the cell of the start, in which deformations are counted.
        log_deformation: (3, 3) L, the logarithm of the deformation gradient.
    """

    rule: PyTree
    reference: Cell
    log_deformation: Array


class Deformed(NamedTuple):
    """Generalized positions and forces of a structure in a deformed cell.

    Attributes:
        y: (N, 3) angstrom, positions carried back into the reference cell.
        forces: (N + 3, 3) eV/angstrom, on y and on the scaled logarithm of the deformation; zero where held.
        max_stress: () eV/angstrom^3.
    """

    y: Positions
    forces: Forces
    max_stress: Scalar


def variable_cell_relaxation(
    potential: Potential,
    rule: UpdateRule,
    *,
    strain: Strain = "full",
    scalar_pressure: float = 0.0,
    cell_factor: float | Literal["spacing"] | None = None,
    force_tolerance: float = 0.0,
    stress_tolerance: float = 0.0,
    step_tolerance: float = 0.0,
) -> Relaxation:
    """Build the relaxation of positions and cell together; used as `relaxation`, with the cell in ``state.cell``.

    Any rule works: it sees a system with three rows more (`with_cell_rows`). A cap on displacements binds the cell's
    rows too. Held components of atoms are held in the reference cell: a fixed atom keeps its fractional coordinates.
    Converged means that neither forces nor stress are left, on what may move. Neighbors stay exact under strain;
    when they can't, the outcome says so, as ever. Losses that compare positions compare them in one cell:
    `losses.carry`.

    Unrolled adjoints work as they are. `Implicit`, and what is built on it, solves for positions in a given cell and
    refuses.

    Args:
        potential: what gives forces and stress.
        rule: what turns forces into displacements.
        strain: "full", "hydrostatic", "fixed_volume" or a mask of components, (6,) in ASE's order xx, yy, zz, yz,
            xz, xy or (3, 3). With a mask it is the components of L that are held: those of the strain where the mask
            allows what products of allowed deformations can do (diagonal ones, those in a plane), as it then does in
            ASE. By name, axes that are not periodic are not strained.
        scalar_pressure: external pressure, eV/angstrom^3 (1 GPa is 1 / `units.EV_PER_A3_IN_GPA`). The energy in the
            state is the potential's, without pV.
        cell_factor: c, by which L is scaled to compare with positions; the number of atoms when not given, as in ASE
            (``exp_cell_factor``), which slows large cells down. A smaller one makes the cell move faster. "spacing"
            is sqrt(n) (V/n)^(1/3) angstrom, with the volume V of the start: cells of any size are then about as stiff
            as their atoms, c^-2 V C = (V/n)^(1/3) C for an elastic constant C.
        force_tolerance: stop, before moving, once the largest force is below this, eV/angstrom, and
        stress_tolerance: the largest component of the stress below this, eV/angstrom^3; if either is 0 never.
        step_tolerance: stop, after moving, once the Euclidean norm of a displacement of all rows is below this,
            angstrom; 0 never stops.

    Raises:
        ValueError: an argument is out of range, or the potential has no stress.

    References:
        Tadmor et al., doi:10.1103/PhysRevB.59.235. Al-Mohy and Higham, doi:10.1137/080716426, for exp'.
    """
    if "stress" not in potential.predicts:
        raise ValueError(NO_STRESS.format(name=potential.name))
    check_tolerances(
        force_tolerance=force_tolerance, stress_tolerance=stress_tolerance, step_tolerance=step_tolerance
    )
    if not (cell_factor in (None, "spacing") or (not isinstance(cell_factor, str) and cell_factor > 0)):
        raise ValueError(f'cell_factor must be positive or "spacing", got {cell_factor!r}')
    project = projection(strain)

    def init(theta, positions, system) -> RelaxState:
        cell_state = CellState(
            rule=rule.init(theta.rule, with_cell_rows(system)),
            reference=system.cell,
            log_deformation=jnp.zeros((3, 3), positions.dtype),
        )
        return initial_state(positions, system.cell, cell_state)

    @full_matmul
    def propose(evaluate, theta, state, system) -> Proposal:
        cell_state: CellState = state.rule
        # All components: those held are held in the reference cell, where they are others.
        everything = system._replace(free=jnp.broadcast_to(system.mask[:, None], system.free.shape))
        here = evaluate(theta, state.positions, state.cell, everything)
        span = periodic_span(cell_state.reference, system.pbc)
        scale = _scale(cell_factor, system, cell_state.reference)
        deformed = _deformed(state, here, system, scale, lambda L: project(L, span), scalar_pressure)

        rows = with_cell_rows(system)
        asked, rule_state = rule.update(theta.rule, deformed.forces, cell_state.rule, rows)
        displacement = jnp.where(rows.free, asked, 0.0)
        moves, strains = displacement[:-3], project(displacement[-3:], span)
        L = cell_state.log_deformation + strains / scale
        F = matrix_exp(L)
        max_force = jnp.max(safe_norm(deformed.forces[:-3]))
        return Proposal(
            here=here,
            positions=(deformed.y + moves) @ F.T,
            cell=cell_state.reference @ F.T,
            rule=cell_state._replace(rule=rule_state, log_deformation=L),
            max_force=max_force,
            step_norm=jnp.sqrt(jnp.sum(lax.stop_gradient(jnp.concatenate([moves, strains])) ** 2)),
            arrived=(max_force < force_tolerance) & (deformed.max_stress < stress_tolerance),
            max_stress=deformed.max_stress,
        )

    lean = potential.apply_lean
    return Relaxation(
        init,
        advancing(propose, step_tolerance=step_tolerance),
        evaluation(potential.apply),
        potential.conservative,
        None if lean is None else evaluation(lean),
        moves_cell=True,
    )


def with_cell_rows(system: System) -> System:
    """The system as a rule sees it when the cell moves too: N + 3 rows, the last three of the cell.

    Those rows are free to move but no atoms (``mask`` is False), so that what concerns atoms, as their drift, leaves
    them out. They weigh as much as an average atom. There are no neighbors: a rule has no use for them.

    Args:
        system: N rows.
    """
    atoms = jnp.maximum(jnp.sum(system.mask), 1)
    mean_mass = jnp.sum(system.masses) / atoms.astype(system.masses.dtype)
    return system._replace(
        species=jnp.pad(system.species, (0, 3)),
        masses=jnp.concatenate([system.masses, jnp.broadcast_to(mean_mass, (3,))]),
        mask=jnp.pad(system.mask, (0, 3)),
        free=jnp.pad(system.free, ((0, 3), (0, 0)), constant_values=True),
        candidates=None,
    )


def _scale(cell_factor: float | Literal["spacing"] | None, system: System, reference: Cell) -> Scalar:
    atoms = jnp.maximum(jnp.sum(system.mask), 1).astype(reference.dtype)
    if cell_factor is None:
        return atoms
    if cell_factor == "spacing":
        return jnp.sqrt(atoms) * jnp.cbrt(jnp.abs(jnp.linalg.det(reference)) / atoms)
    return jnp.asarray(cell_factor, reference.dtype)


def _deformed(
    state: RelaxState, here: Evaluation, system: System, scale: Scalar, project, pressure: float
) -> Deformed:
    """Generalized coordinates and forces where a relaxation stands."""
    F, frechet_transposed = jax.vjp(matrix_exp, state.rule.log_deformation)
    inverse = jnp.linalg.inv(F)
    on_atoms = jnp.where(system.free, here.forces @ F, 0.0)
    volume = jnp.abs(jnp.linalg.det(state.cell))
    virial = -volume * (_stress(here) + pressure * jnp.eye(3, dtype=F.dtype))
    (on_cell,) = frechet_transposed(virial @ inverse.T)
    on_cell = project(on_cell)
    # Not the stress itself: with a mask only this vanishes at the minimum. Without strain the two are the same.
    return Deformed(
        y=state.positions @ inverse.T,
        forces=jnp.concatenate([on_atoms, on_cell / scale]),
        max_stress=jnp.max(jnp.abs(on_cell)) / volume,
    )


def _stress(here: Evaluation) -> Stress:
    if here.stress is None:
        raise ValueError(NO_STRESS.format(name="this potential"))
    return here.stress
