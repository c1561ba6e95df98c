"""From a JAX way of running the steps to a compiled program, with the two parts of compiling timed apart."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cases
from benchmarks.contract import Case, Digest, Kind, Program
from bptt_relax import unrolling
from bptt_relax.adjoints import Adjoint
from bptt_relax.outcomes import Outcome


def compile_program(case: Case, adjoint: Adjoint, kind: Kind) -> Program:
    """Compile the loss of a relaxed structure, or its value and gradient.

    Args:
        case: what to relax.
        adjoint: how to run and differentiate the steps; peers come in the same form.
        kind: which of the two.
    """
    prepared = cases.problem(case)
    relaxation = prepared.relaxation
    run = unrolling.unroll(relaxation, case.steps, adjoint)

    def loss(theta, positions, target, system):
        result = run(theta, relaxation.init(theta, positions, system), system)
        return jnp.sum((result.state.positions - target) ** 2), result.outcome

    function = jax.value_and_grad(loss, has_aux=True) if kind == "gradient" else loss
    arguments = (prepared.theta, prepared.positions, prepared.target, prepared.system)
    begin = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()

    def execute():
        return jax.block_until_ready(compiled(*arguments))

    def digest(output) -> Digest:
        (value, outcome), gradient = output if kind == "gradient" else (output, None)
        if int(outcome) != Outcome.RUNNING:
            # A structure that stopped skips its remaining steps: the time would be that of a shorter run.
            raise RuntimeError(
                f"{case.name} ended as {Outcome(int(outcome)).name} instead of making every step"
            )
        return Digest(float(value), None if gradient is None else _norm(gradient.potential))

    memory = compiled.memory_analysis()
    temp = None if memory is None else int(memory.temp_size_in_bytes)
    return Program(execute, digest, traced - begin, done - traced, temp)


def _norm(tree) -> float:
    """Euclidean norm over all leaves, in double precision; NaN where there is one."""
    return float(
        np.sqrt(sum(np.sum(np.square(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(tree)))
    )
