"""The certificate: may gradients through relaxations be trusted for this potential, structure, rule and machine?"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax import unrolling
from bptt_relax._precision import precision
from bptt_relax._types import Params, Positions
from bptt_relax.adjoints import Adjoint, Checkpointed
from bptt_relax.analysis._check import Check, check, failures, note, to_device, to_host
from bptt_relax.analysis.consistency import check_potential
from bptt_relax.analysis.gradcheck import gradcheck
from bptt_relax.analysis.spectrum import hessian_extremes
from bptt_relax.analysis.stability import Stability, stability
from bptt_relax.potentials import Potential
from bptt_relax.relax import Theta, UpdateRule, relaxation
from bptt_relax.systems import System
from bptt_relax.trees import safe_sqrt


class Certificate(NamedTuple):
    """What `selftest` found.

    Attributes:
        potential: its name.
        conservative: its forces are minus the gradient of an energy.
        num_atoms: of the structure.
        num_steps: of the unroll.
        device: where it ran.
        checks: of the potential, of the gradients, of the step size.
        stability: the rule against the curvature, or None where there is none.
        passed: nothing failed.
        sentence: the verdict in words.
    """

    potential: str
    conservative: bool
    num_atoms: int
    num_steps: int
    device: str
    checks: tuple[Check, ...]
    stability: Stability | None
    passed: bool
    sentence: str


def selftest(
    potential: Potential,
    params: Params,
    positions: Positions,
    system: System,
    rule: UpdateRule,
    num_steps: int,
    *,
    adjoint: Adjoint | None = None,
    single: bool = True,
    seed: int = 0,
) -> Certificate:
    """Check a potential, a rule and the gradients they give, on one structure; on the host.

    Args:
        potential: the potential.
        params: its parameters.
        positions: (N, 3) angstrom, a start of a relaxation.
        system: the structure, with neighbors.
        rule: how to relax.
        num_steps: length of the unroll whose gradient is checked; a few steps tell as much as many.
        adjoint: how to differentiate; `adjoints.Checkpointed` when not given.
        single: also compare with single precision, at the price of compiling once more.
        seed: of random displacements and directions.
    """
    checks = list(check_potential(potential, params, positions, system, seed=seed))
    relax_here = relaxation(potential, rule)
    theta, start, structure = to_host((Theta(params, rule.hyper), positions, system))
    case = _Case(potential, rule, theta, start, structure, num_steps)
    rng = np.random.default_rng(seed)
    target = case.positions + 0.05 * rng.normal(size=case.positions.shape)

    def loss(theta, result, system):
        # Mass-weighted as Delta Q, and seeing rigid motions too: all of the end state is compared.
        del theta
        end = result.state.positions
        d = jnp.where(system.free, end - jnp.asarray(target, end.dtype), 0.0)
        return safe_sqrt(jnp.sum(system.masses[:, None] * d**2))

    run = unrolling.unroll(relax_here, num_steps, Checkpointed() if adjoint is None else adjoint)
    tolerance = 1e-3 if single else None
    report = gradcheck(
        run, relax_here, case.theta, positions, system, loss, seed=seed, single_tolerance=tolerance
    )
    checks += report.checks
    rule_stability, found = _step_size(case)
    checks += found
    bad = failures(checks)
    sentence = (
        "passed: gradients through this relaxation can be trusted"
        if not bad
        else f"FAILED: {', '.join(c.name for c in bad)}"
    )
    return Certificate(
        potential=potential.name,
        conservative=potential.conservative,
        num_atoms=int(np.sum(case.system.mask)),
        num_steps=num_steps,
        device=str(jax.devices()[0].device_kind),
        checks=tuple(checks),
        stability=rule_stability,
        passed=not bad,
        sentence=sentence,
    )


class _Case(NamedTuple):
    """What is certified, arrays on the host."""

    potential: Potential
    rule: UpdateRule
    theta: Any
    positions: Any
    system: Any
    num_steps: int


def _step_size(case: _Case) -> tuple[Stability | None, list[Check]]:
    """The rule against the largest curvature at the start and where the unroll ends."""
    relax_here = relaxation(case.potential, case.rule)
    run = unrolling.unroll(relax_here, case.num_steps)
    with precision(double=True):
        theta, positions, system = to_device((case.theta, case.positions, case.system), double=True)
        end = jax.jit(run)(theta, relax_here.init(theta, positions, system), system).state.positions
        extremes = jax.jit(lambda x: hessian_extremes(relax_here, theta, x, system))
        found = [extremes(x) for x in (positions, end)]
        largest = float(np.max([float(e.largest + e.largest_error) for e in found]))
        smallest = float(found[-1].smallest)
        curvature = note(
            "softest curvature", smallest, "eV/A^2 where the unroll ends; below zero is no minimum"
        )
        if not np.isfinite(largest) or largest <= 0:
            return None, [
                curvature,
                Check("step size", largest, None, False, "no positive curvature was found"),
            ]
        verdict = stability(case.rule, theta.rule, largest)
    return verdict, [curvature, check("step size", largest / verdict.limit, 1.0, verdict.sentence)]


def format_certificate(certificate: Certificate) -> str:
    """The certificate as lines of text: one per check, then the verdict."""
    c = certificate
    lines = [f"{c.potential}: {c.num_atoms} atoms, {c.num_steps} steps, on {c.device}"]
    if not c.conservative:
        lines.append(
            "a direct-force model: its forces are the gradient of no energy. What rotations, translations and the "
            "net force come to is reported, not required"
        )
    lines.append("")
    words = {True: "ok", False: "FAILED", None: "-"}
    width = max(len(one.name) for one in c.checks)
    for one in c.checks:
        bound = "" if one.tolerance is None else f"<= {one.tolerance:.0e}"
        lines.append(
            f"{one.name:<{width}}  {words[one.passed]:<6}  {one.value:9.2e} {bound:<9}  {one.detail}"
        )
    return "\n".join([*lines, "", c.sentence])


def as_rows(certificate: Certificate) -> list[dict[str, object]]:
    """The checks as dictionaries, for JSON and tables."""
    return [dict(one._asdict()) for one in certificate.checks]
