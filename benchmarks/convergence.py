"""How wrong each gradient is, before and after a relaxation has converged: ``python -m benchmarks.convergence N T``.

The reference is the derivative of the minimum itself, which the unrolled gradient approaches with every step and
the implicit one approaches as its structure does. Errors are over logarithms of the parameters, so that none wins
by its unit. Needs double precision: float32 ends the curves at 1e-5.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import cases
from benchmarks.contract import Case
from benchmarks.schema import Convergence
from benchmarks.strategies import WINDOW
from bptt_relax import unrolling
from bptt_relax._types import Array
from bptt_relax.adjoints import Adjoint, Checkpointed, Guided, Implicit, Truncated
from bptt_relax.relax import Relaxation
from bptt_relax.trees import safe_norm

MODEL = "stillinger-weber"
_ANYWHERE = Implicit(force_tolerance=float("inf"), tolerance=1e-11, max_iterations=1000)
"""Never refuses: here it is asked for its error where it is wrong."""

STRATEGIES = {
    "force": Checkpointed("force"),
    "implicit": _ANYWHERE,
    "guided": Guided(WINDOW, implicit=_ANYWHERE),
    "first": Truncated(first=WINDOW),
    "last": Truncated(last=WINDOW),
}


def measure(atoms: int, longest: int) -> Convergence:
    """Errors of every strategy along one relaxation.

    Args:
        atoms: number of atoms.
        longest: steps of the longest relaxation; the reference takes four times as many.
    """
    exact, _ = _gradient(_ANYWHERE, atoms, 4 * longest)(4 * longest)
    lengths = np.unique(np.linspace(4, longest, 41).round().astype(int))
    errors: dict[str, list[float | None]] = {}
    forces: list[float] = []
    for name, adjoint in STRATEGIES.items():
        gradient = _gradient(adjoint, atoms, longest)
        found = [gradient(int(length)) for length in lengths]
        apart = [float(np.linalg.norm(g - exact) / np.linalg.norm(exact)) for g, _ in found]
        errors[name] = [error if np.isfinite(error) else None for error in apart]
        forces = [force for _, force in found]
    return Convergence(
        model=MODEL, atoms=atoms, steps=[int(length) for length in lengths], max_force=forces, errors=errors
    )


def _gradient(adjoint: Adjoint, atoms: int, longest: int):
    """Build (steps) -> gradient over logarithms of parameters, and the largest force where the relaxation ends.

    One compilation serves all lengths: the relaxation stands still once it has made its steps.
    """
    prepared = cases.problem(Case(MODEL, atoms, longest))
    theta, system = prepared.theta, prepared.system

    @jax.jit
    def gradient(steps):
        relaxation = _standing_still_after(prepared.relaxation, steps)
        run = unrolling.unroll(relaxation, longest, adjoint)

        def loss(theta):
            final = run(theta, relaxation.init(theta, prepared.positions, system), system).state
            return jnp.sum((final.positions - prepared.target) ** 2), final

        by_parameter, final = jax.grad(loss, has_aux=True)(theta)
        by_logarithm = jax.tree.map(jnp.multiply, by_parameter.potential, theta.potential)
        forces = relaxation.evaluate(theta, final.positions, final.cell, system).forces
        return jnp.stack(jax.tree.leaves(by_logarithm)), jnp.max(safe_norm(forces))

    def of(steps: int) -> tuple[np.ndarray, float]:
        found, force = gradient(jnp.asarray(steps, jnp.int32))
        return np.asarray(found), float(force)

    return of


def _standing_still_after(relaxation: Relaxation, steps: Array) -> Relaxation:
    """The same relaxation with a number of steps that is not known when it is compiled."""

    def advance(evaluate, theta, carry, system):
        return lax.cond(
            carry.state.steps < steps,
            lambda c: relaxation.advance(evaluate, theta, c, system),
            lambda c: c,
            carry,
        )

    return relaxation._replace(advance=advance)


if __name__ == "__main__":
    print(measure(*map(int, sys.argv[1:])).model_dump_json())
