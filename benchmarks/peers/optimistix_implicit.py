"""Optimistix's implicit adjoint at the structure where the same forward relaxation ends.

The steps are ours, without a gradient; one step of plain descent from their end is what optimistix differentiates
as a fixed point, with lineax's conjugate gradients. Left alone the system is singular (three translations) and the
result arbitrary, so the mean position is pinned, as a user would have to do.
"""

import jax.numpy as jnp
import lineax
import optimistix
from jax import lax

from benchmarks.cases import STEP_SIZE
from benchmarks.contract import Case, Program
from benchmarks.programs import compile_program
from bptt_relax.adjoints import Implicit

TOLERANCE = Implicit().tolerance
"""Of the linear system: what ours is asked for too."""

TYPICAL = 0.1
"""Size of a component of the right-hand side, angstrom: lineax wants every component of the residual small next to the
same component of the right-hand side, some of which are next to nothing, where ours compares lengths."""


class OptimistixImplicit:
    """`bptt_relax.adjoints.Adjoint` around ``optimistix.ImplicitAdjoint``."""

    def build(self, relaxation, num_steps, record):
        """See `bptt_relax.adjoints.Adjoint.build`."""
        del record

        def descend(positions, arguments):
            theta, system, cell, center = arguments
            forces = relaxation.evaluate(theta, positions, cell, system).forces
            return positions + STEP_SIZE * forces - (jnp.mean(positions, axis=0, keepdims=True) - center)

        def run(theta, carry, system):
            final, _ = lax.scan(
                lambda carry, _: (relaxation.advance(relaxation.evaluate, theta, carry, system), None),
                carry,
                None,
                length=num_steps,
            )
            final, info = lax.stop_gradient(final)
            center = jnp.mean(final.positions, axis=0, keepdims=True)
            solution = optimistix.fixed_point(
                descend,
                # Any distance counts as converged: the relaxation is over, only the gradient is wanted.
                optimistix.FixedPointIteration(rtol=jnp.inf, atol=jnp.inf),
                final.positions,
                args=(theta, system, carry.state.cell, center),
                adjoint=optimistix.ImplicitAdjoint(
                    lineax.CG(rtol=TOLERANCE, atol=TYPICAL * TOLERANCE, max_steps=200)
                ),
                max_steps=2,
                throw=False,
                tags=frozenset({lineax.negative_semidefinite_tag}),
            )
            return carry._replace(state=final._replace(positions=solution.value), info=info), ()

        return run


def build(case: Case) -> Program:
    """See `Entry.build`."""
    return compile_program(case, OptimistixImplicit(), "gradient")
