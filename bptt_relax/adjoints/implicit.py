"""The gradient of a fixed point from the fixed point alone: no unroll, no storage, any number of steps."""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bptt_relax._types import Array, Scalar
from bptt_relax.adjoints import _floats, _linear
from bptt_relax.adjoints._contract import Adjoint, RecordFn, RunFn
from bptt_relax.adjoints._linear import SolverName
from bptt_relax.adjoints._loop import limited_step, scan_steps, scan_with_pullback
from bptt_relax.adjoints.checkpointed import checkpointed_step
from bptt_relax.adjoints.curvature import curvature
from bptt_relax.outcomes import RelaxationError
from bptt_relax.relax import Carry, Relaxation, RelaxState, Theta
from bptt_relax.systems import System
from bptt_relax.trees import safe_norm, where


class Usable(IntEnum):
    """Whether an implicit gradient means anything. Everything but ``YES`` is refused or replaced."""

    YES = 0
    NOT_CONVERGED = 1
    NOT_DEFINITE = 2
    NOT_SOLVED = 3


SENTENCES = {
    Usable.YES: "the implicit gradient can be used",
    Usable.NOT_CONVERGED: (
        "the structure is not at a fixed point, where alone an implicit gradient is right: give the relaxation "
        "more steps, raise force_tolerance knowingly, or choose an unrolled adjoint"
    ),
    Usable.NOT_DEFINITE: (
        "the Hessian has a negative eigenvalue, so the structure sits at a saddle: perturb it, add damping, or "
        "take solver='minres'"
    ),
    Usable.NOT_SOLVED: (
        "the linear solver did not reach its tolerance: raise max_iterations or tolerance, or add damping"
    ),
}


class ImplicitReport(NamedTuple):
    """What an implicit gradient rests on. `check` turns the code into an error on the host.

    Attributes:
        usable: () int, `Usable`.
        max_force: () largest force on an atom, eV/angstrom; zero at a fixed point.
        residual: () relative residual of the linear system.
        iterations: () int, Hessian-vector products.
    """

    usable: Array
    max_force: Scalar
    residual: Scalar
    iterations: Array

    def check(self, name: str) -> None:
        """Raise on the host when the gradient can't be used.

        Args:
            name: what to call the structure in the message.

        Raises:
            RelaxationError: the structure has not converged, or the linear system was not solved.
        """
        code = Usable(int(self.usable))
        if code != Usable.YES:
            raise RelaxationError(
                f"structure {name}: {SENTENCES[code]} (largest force {float(self.max_force):.1e} eV/angstrom, "
                f"linear residual {float(self.residual):.1e} after {int(self.iterations)} products)"
            )


@dataclass(frozen=True)
class Implicit(Adjoint):
    """Differentiate F(x*, theta) = 0 instead of the steps that led there.

    With A = -dF/dx (the Hessian), dx*/dtheta = A^-1 dF/dtheta. For the cotangent g of x*, one solves A^T y = P g
    and returns y . dF/dtheta; P removes held components and rigid motions, to which theta has no say. The energy
    of the final state contributes its direct derivative (at a fixed point there is no other), the cell through F.

    Exact at a fixed point and meaningless away from one. It knows only the minimum that was reached: it can't
    move a structure into another basin. The gradient with respect to the start and to the hyperparameters of the
    rule is zero, as is any through the record. Rotations of a cluster are removed too; an unrolled gradient keeps
    the little turning that the path brings about, so the two agree for losses that do not see rotations.

    Attributes:
        force_tolerance: largest force at which a structure counts as converged, eV/angstrom.
        on_unusable: what the gradient becomes where it can't be trusted (`Usable`): "nan", so that a training step
            refuses it; "zero", so that the structure is left out; "unroll", the exact unrolled gradient, for
            another forward and backward pass. `report` says which case it is. A structure whose final state has
            no cotangent has gradient zero in any case.
        solver: "cg", "minres" for Hessians that may have negative eigenvalues, "gmres" for forces that are not
            conservative. By default "cg", or "gmres" where the forces are not conservative.
        tolerance: relative residual of the linear system.
        max_iterations: largest number of Hessian-vector products, each about one force evaluation.
        damping: added to the Hessian, eV/angstrom^2. Tames soft modes at the price of a bias towards zero.
        remove_rigid: project rigid motions out. By default where the forces are conservative.

    Raises:
        ValueError: an argument is out of range.

    References:
        Maliyov, Grigorev and Swinburne, arXiv:2407.02414. Blondel et al., arXiv:2105.15183.
    """

    names: ClassVar[tuple[str, ...]] = ("implicit",)
    needs_fixed_cell: ClassVar[bool] = True
    needs_convergence: ClassVar[bool] = True
    trains_rule: ClassVar[bool] = False

    force_tolerance: float = 1e-3
    on_unusable: Literal["nan", "zero", "unroll"] = "nan"
    solver: SolverName | None = None
    tolerance: float = 1e-5
    max_iterations: int = 200
    damping: float = 0.0
    remove_rigid: bool | None = None

    def __post_init__(self):
        if self.on_unusable not in ("nan", "zero", "unroll"):
            raise ValueError(f"on_unusable must be 'nan', 'zero' or 'unroll', got {self.on_unusable!r}")
        if self.solver not in (None, "cg", "minres", "gmres"):
            raise ValueError(f"solver must be 'cg', 'minres', 'gmres' or None, got {self.solver!r}")
        for name in ("force_tolerance", "tolerance", "max_iterations"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.damping < 0:
            raise ValueError(f"damping must not be negative, got {self.damping}")

    @property
    def name(self) -> str:
        """See `Adjoint.name`."""
        return "implicit"

    def stored_states(self, num_steps: int) -> int:
        """See `Adjoint.stored_states`: none, unless it unrolls where it can't be used."""
        return num_steps if self.on_unusable == "unroll" else 0

    def build(self, relaxation: Relaxation, num_steps: int, record: RecordFn) -> RunFn:
        """See `Adjoint.build`.

        Raises:
            ValueError: a solver for symmetric systems on forces that are not conservative, or a variable cell.
        """
        require_fixed_cell(relaxation, self)
        require_solver(relaxation, self)

        def unrolled(theta, carry, system, cotangent):
            step = checkpointed_step(relaxation, num_steps, lean=True)
            floats, rest = _floats.split(carry)

            def end(theta, floats):
                final, _ = scan_steps(
                    step, num_steps, lambda *_: (), theta, _floats.join(floats, rest), system
                )
                return _floats.split(final)[0]

            return jax.vjp(end, theta, floats)[1](_floats.split(cotangent)[0])

        def pullback(theta, carry, final, system, cotangent):
            zeros: Carry = _floats.zero_cotangents(carry)
            gradient, cell, report = self.pull_back(relaxation, theta, final.state, system, cotangent)
            usable = (report.usable == Usable.YES) | ~_depends_on_fixed_point(cotangent)
            if self.on_unusable == "unroll":
                here, rest = _floats.split(zeros._replace(state=zeros.state._replace(cell=cell)))
                gradient, floats = lax.cond(
                    usable, lambda: (gradient, here), lambda: unrolled(theta, carry, system, cotangent)
                )
                return gradient, _floats.join(floats, rest)
            refused = jnp.nan if self.on_unusable == "nan" else 0.0
            gradient, cell = where(
                usable, (gradient, cell), jax.tree.map(lambda x: jnp.full_like(x, refused), (gradient, cell))
            )
            return gradient, zeros._replace(state=zeros.state._replace(cell=cell))

        return scan_with_pullback(limited_step(relaxation, num_steps), num_steps, record, pullback)

    def pull_back(
        self, relaxation: Relaxation, theta: Theta, final: RelaxState, system: System, cotangent: Carry
    ) -> tuple[Theta, Array, ImplicitReport]:
        """Cotangents of theta and of the cell, and what they rest on.

        Args:
            relaxation: gives the forces.
            theta: parameters.
            final: where the relaxation ended.
            system: the structure.
            cotangent: of the end; those of positions, cell and energy are read.
        """
        conservative = relaxation.conservative
        remove_rigid = conservative if self.remove_rigid is None else self.remove_rigid
        solver = ("cg" if conservative else "gmres") if self.solver is None else self.solver
        x, cell = final.positions, final.cell
        here = curvature(relaxation, theta, x, cell, system, remove_rigid=remove_rigid)
        solution = _linear.solve(
            solver,
            lambda v: here.transposed(v) + self.damping * v,
            here.project(cotangent.state.positions),
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        # Projected: with rigid motions removed, a net force of the potential moves nothing that matters.
        max_force = jnp.max(safe_norm(here.project(here.forces)))
        converged = (max_force <= self.force_tolerance) & ~here.overflow
        solved = solution.residual <= self.tolerance
        usable = jnp.where(solved, Usable.YES, Usable.NOT_SOLVED)
        usable = jnp.where(solution.definite, usable, Usable.NOT_DEFINITE)
        usable = jnp.where(converged, usable, Usable.NOT_CONVERGED)
        report = ImplicitReport(usable, max_force, solution.residual, solution.iterations)
        gradient, through_cell = pull_back_forces(
            relaxation, theta, final, system, solution.x, cotangent.info.energy
        )
        return gradient, cotangent.state.cell + through_cell, report

    def report(
        self, relaxation: Relaxation, theta: Theta, final: RelaxState, system: System, cotangent: Array
    ) -> ImplicitReport:
        """What the gradient of a loss with this cotangent rests on; pure, to be jitted.

        Args:
            relaxation: gives the forces.
            theta: parameters.
            final: where the relaxation ended.
            system: the structure.
            cotangent: (N, 3) derivative of the loss with respect to the final positions.
        """
        nothing: Carry = jax.tree.map(jnp.zeros_like, relaxation.carry(final))
        asked = nothing._replace(state=nothing.state._replace(positions=cotangent))
        return self.pull_back(relaxation, theta, final, system, asked)[2]


def pull_back_forces(
    relaxation: Relaxation, theta: Theta, final: RelaxState, system: System, force: Array, energy: Scalar
) -> tuple[Theta, Array]:
    """Cotangents of theta and of the cell, for given ones of forces (N, 3) and energy () at fixed positions."""
    evaluate = relaxation.evaluate if relaxation.evaluate_lean is None else relaxation.evaluate_lean

    def at_rest(theta: Theta, cell: Array):
        here = evaluate(theta, final.positions, cell, system)
        return here.energy, here.forces

    _, pull = jax.vjp(at_rest, theta, final.cell)
    return pull((energy, force))


def require_fixed_cell(relaxation: Relaxation, adjoint: Adjoint) -> None:
    """Refuse a relaxation that moves the cell, whose fixed points are not those of the forces alone.

    Raises:
        ValueError: it does.
    """
    if relaxation.moves_cell:
        raise ValueError(
            f"adjoint {type(adjoint).__name__} differentiates positions in a given cell, and this relaxation moves "
            "the cell: take Checkpointed or Truncated"
        )


def require_solver(relaxation: Relaxation, implicit: Implicit) -> None:
    """Refuse a solver for symmetric systems where the Jacobian of the forces is not symmetric.

    Raises:
        ValueError: it is one.
    """
    if not relaxation.conservative and implicit.solver in ("cg", "minres"):
        raise ValueError(
            f"solver={implicit.solver!r} needs a symmetric Jacobian and these forces are not conservative: "
            "take solver='gmres' or leave it out"
        )


def _depends_on_fixed_point(cotangent: Carry) -> Array:
    """Whether the loss sees what the fixed point decides: positions or energy. The cell is that of the start."""
    return jnp.any(cotangent.state.positions != 0) | (cotangent.info.energy != 0)
