"""Classical potentials: jax-md's own terms, on our edges.

jax-md's drivers see one image per neighbor, so they are silently wrong in a cell smaller than the cutoff, and
their parameter gradients are NaN because (r/sigma)**-4 is taken before masking. Here its pair and angle terms
are evaluated on every image, on distances that were masked first.
"""

import jax
import jax.numpy as jnp
from jax_md import energy as jax_md_energy

from bptt_relax._types import Array, Energy, Params
from bptt_relax.neighbors import Graph, GraphSpec
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.conservative import conservative
from bptt_relax.systems import System
from bptt_relax.trees import safe_norm

SILICON = {
    "sigma": 2.0951,
    "A": 7.049556277,
    "B": 0.6022245584,
    "lam": 21.0,
    "gamma": 1.2,
    "epsilon": 2.16826,
}
"""Stillinger and Weber, Phys. Rev. B 31, 5262 (1985), doi:10.1103/PhysRevB.31.5262."""

SILICON_CUTOFF = 3.77118


def stillinger_weber(parameters: dict[str, float] | None = None, cutoff: float = SILICON_CUTOFF) -> Potential:
    """Stillinger-Weber silicon with learnable sigma, A, B, lam, gamma and epsilon.

    Args:
        parameters: starting values, ``SILICON`` when not given. sigma angstrom, epsilon eV, the rest pure numbers.
        cutoff: angstrom; not learnable.

    References:
        Stillinger and Weber, doi:10.1103/PhysRevB.31.5262.
    """
    start = SILICON if parameters is None else parameters

    def init(key) -> Params:
        del key
        return {name: jnp.asarray(value, float) for name, value in start.items()}

    def energy(params: Params, vectors: Array, system: System, graph: Graph) -> Energy:
        del system
        # A little inside the cutoff both terms are below 1e-200 eV, and 1/(r - cutoff) stays finite.
        inside = graph.mask & (safe_norm(vectors) < cutoff * (1 - 1e-4))
        r = jnp.where(inside, safe_norm(vectors), 0.6 * cutoff)
        pair = jax_md_energy._sw_radial_interaction(params["sigma"], params["B"], cutoff, r)
        pair_sum = jnp.sum(jnp.where(inside, pair, 0.0)) / 2

        first, second = graph.bonds[graph.angles[:, 0]], graph.bonds[graph.angles[:, 1]]
        inside = graph.angle_mask & inside[first] & inside[second]
        far_x, far_y = 0.6 * cutoff * jnp.eye(3, dtype=vectors.dtype)[:2, None]
        v1 = jnp.where(inside[:, None], vectors[first], far_x)
        v2 = jnp.where(inside[:, None], vectors[second], far_y)
        triple = jax.vmap(
            lambda a, b: jax_md_energy._sw_angle_interaction(params["gamma"], params["sigma"], cutoff, a, b)
        )(v1, v2)
        triple_sum = jnp.sum(jnp.where(inside, triple, 0.0)) / 2
        return params["epsilon"] * (params["A"] * pair_sum + params["lam"] * triple_sum)

    return conservative(energy, init, GraphSpec(cutoff, cutoff), elements=(14,), name="stillinger-weber")
