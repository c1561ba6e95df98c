"""A differentiated window that chooses the basin, an implicit gradient that says where in it the minimum lies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from bptt_relax.adjoints import _floats
from bptt_relax.adjoints._contract import Adjoint, RecordFn, RunFn, own_arguments
from bptt_relax.adjoints.implicit import Implicit, Usable, require_fixed_cell, require_solver
from bptt_relax.adjoints.truncated import window_then
from bptt_relax.relax import Relaxation
from bptt_relax.trees import where


@dataclass(frozen=True)
class Guided(Adjoint):
    """Unroll the first K displacements and differentiate the fixed point that they lead to implicitly.

    The exact derivative of a relaxation that has converged is the implicit one alone: within a basin the end does not
    depend on the way. It says nothing about the neighboring basin. The window does: it says how theta moves the
    structure while the basin is still being chosen. With the cotangent g of the final state,

        gradient = (1 - w) * y . dF/dtheta  +  w * g . dx_K/dtheta,        A y = P g at the final structure,

    the first term as in `Implicit`, the second as in ``Truncated(first=K)``. In the quadratic neighborhood of a
    minimum the exact derivative is (1 - M) [implicit] + M [window] with M = J_{T} ... J_{K+1}, the product of the
    later step Jacobians; w stands for M. Hence the limits: w = 0 is `Implicit`, w = 1 is ``Truncated(first=K)``, and
    where both agree with the exact gradient, as when the structure has converged within the window, so does any w.
    In between it is a surrogate: no loss has this gradient.

    Where the structure has not converged, or the linear system was not solved (`Implicit.report` says so), the
    implicit term is meaningless and the window alone is used, with w = 1. The start gets the window's gradient, and
    so do the hyperparameters of the rule; nothing is stored beyond the window.

    The idea is that of Zhang, Dramko and Kyrillidis (July 2026), known to us from its public summary; their weighting
    of the two parts may differ.

    Attributes:
        window: K, displacements that are unrolled.
        weight: w, of the window.
        implicit: how to differentiate the fixed point; its ``on_unusable`` is not used.

    Raises:
        ValueError: an argument is out of range.
    """

    names: ClassVar[tuple[str, ...]] = ("guided_K",)
    needs_fixed_cell: ClassVar[bool] = True
    needs_convergence: ClassVar[bool] = True

    window: int
    weight: float = 0.5
    implicit: Implicit = field(default_factory=Implicit)

    def __post_init__(self):
        if not isinstance(self.window, int) or self.window < 1:
            raise ValueError(f"window must be a positive integer, got {self.window!r}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must lie between 0 and 1, got {self.weight}")

    @classmethod
    def from_name(cls, word: str, steps: int | None, arguments: Mapping[str, Any]) -> Self:
        """See `Adjoint.from_name`; arguments of `Implicit` are those of its own."""
        implicit = Implicit.from_name("implicit", None, arguments)
        given: dict[str, Any] = {"implicit": implicit, **own_arguments(cls, arguments), "window": steps}
        return cls(**given)

    @property
    def name(self) -> str:
        """See `Adjoint.name`."""
        return f"guided_{self.window}"

    def stored_states(self, num_steps: int) -> int:
        """See `Adjoint.stored_states`."""
        return min(self.window, num_steps)

    def build(self, relaxation: Relaxation, num_steps: int, record: RecordFn) -> RunFn:
        """See `Adjoint.build`.

        Raises:
            ValueError: the relaxation moves the cell, or the solver does not fit its forces.
        """
        require_fixed_cell(relaxation, self)
        require_solver(relaxation, self.implicit)

        def pullback(theta, carry, final, system, cotangent):
            del carry
            gradient, cell, report = self.implicit.pull_back(
                relaxation, theta, final.state, system, cotangent
            )
            usable = report.usable == Usable.YES
            w = jnp.where(usable, self.weight, 1.0)
            # Selected first: what is refused may be NaN, and NaN times zero is NaN.
            gradient, cell = where(usable, (gradient, cell), jax.tree.map(jnp.zeros_like, (gradient, cell)))
            weighted = _floats.scale_cotangents(w, cotangent)
            whole_cell = weighted.state.cell + (1 - w) * cell
            return (
                _floats.scale_cotangents(1 - w, gradient),
                weighted._replace(state=weighted.state._replace(cell=whole_cell)),
            )

        return window_then(relaxation, min(self.window, num_steps), num_steps, record, pullback)
