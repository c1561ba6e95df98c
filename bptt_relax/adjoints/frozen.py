"""The stop-gradient baseline: force fitting at the structure that was reached."""

from dataclasses import dataclass
from typing import ClassVar

from bptt_relax.adjoints import _floats
from bptt_relax.adjoints._contract import Adjoint, RecordFn, RunFn
from bptt_relax.adjoints._loop import limited_step, scan_with_pullback
from bptt_relax.adjoints.implicit import pull_back_forces, require_fixed_cell
from bptt_relax.relax import Carry, Relaxation


@dataclass(frozen=True)
class FrozenGeometry(Adjoint):
    """Differentiate one plain step s * F taken from the final structure, which itself carries no gradient.

    x* + s * F(x*, theta) with x* held: for the cotangent g of x* the gradient is s * g . dF/dtheta. It is `Implicit`
    with the inverse Hessian replaced by the number s, and like it blind to the path. One force evaluation, no linear
    system, no question of convergence; the direction is wrong as far as the Hessian is not a multiple of one.
    The gradient with respect to the start, the hyperparameters and the record is zero.

    Attributes:
        step_size: s, angstrom^2/eV. Only scales the gradient.

    Raises:
        ValueError: ``step_size`` is not positive.

    References:
        Fung et al., "Jacobian-free backpropagation", doi:10.1609/aaai.v36i6.20619. Kaymak et al., JAX-ReaxFF, which
        alternates minimization and fitting at frozen geometry: doi:10.1021/acs.jctc.2c00363.
    """

    names: ClassVar[tuple[str, ...]] = ("frozen",)
    needs_fixed_cell: ClassVar[bool] = True
    needs_convergence: ClassVar[bool] = True
    trains_rule: ClassVar[bool] = False

    step_size: float = 0.05

    def __post_init__(self):
        if not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")

    @property
    def name(self) -> str:
        """See `Adjoint.name`."""
        return "frozen"

    def stored_states(self, num_steps: int) -> int:
        """See `Adjoint.stored_states`."""
        del num_steps
        return 0

    def build(self, relaxation: Relaxation, num_steps: int, record: RecordFn) -> RunFn:
        """See `Adjoint.build`.

        Raises:
            ValueError: the relaxation moves the cell.
        """
        require_fixed_cell(relaxation, self)

        def pullback(theta, carry, final, system, cotangent):
            force = self.step_size * cotangent.state.positions
            gradient, through_cell = pull_back_forces(
                relaxation, theta, final.state, system, force, cotangent.info.energy
            )
            zeros: Carry = _floats.zero_cotangents(carry)
            cell = cotangent.state.cell + through_cell
            return gradient, zeros._replace(state=zeros.state._replace(cell=cell))

        return scan_with_pullback(limited_step(relaxation, num_steps), num_steps, record, pullback)
