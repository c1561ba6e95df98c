"""A function of the distance between two atoms: Morse, Lennard-Jones, a small network."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from bptt_relax._types import Array, Energy, Params
from bptt_relax.neighbors import Graph, GraphSpec
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.conservative import conservative
from bptt_relax.systems import System
from bptt_relax.trees import safe_norm


def from_pair_fn(
    pair_fn: Callable[[Params, Array], Any],
    params: Params,
    cutoff: float,
    *,
    fade: float = 1.0,
    elements: tuple[int, ...] = (),
    name: str = "pairs",
) -> tuple[Potential, Params]:
    """A potential from the energy of a pair; every periodic image counts.

    Args:
        pair_fn: (params, distances (E,) angstrom) -> energies (E,) eV, each of one pair. jax-md's pair energies
            fit: ``lambda params, r: jax_md.energy.morse(r, **params)``.
        params: what trains: a pytree of floats.
        cutoff: angstrom.
        fade: width of the shell before the cutoff over which the energy is taken smoothly to zero, angstrom; zero
            for a function that does so itself.
        elements: atomic numbers it covers; empty for any.
        name: for messages and results.

    Raises:
        ValueError: the shell is wider than the cutoff, or negative.
    """
    if not 0.0 <= fade <= cutoff:
        raise ValueError(f"fade={fade} must lie between zero and the cutoff of {cutoff} angstrom")

    def energy(params: Params, vectors: Array, system: System, graph: Graph) -> Energy:
        del system
        # A distance at which no power or exponential is extreme, not one beyond the cutoff.
        distances = jnp.where(graph.mask, safe_norm(vectors), 0.7 * cutoff)
        energies = pair_fn(params, distances)
        if fade:
            energies = energies * switch(distances, cutoff, fade)
        return 0.5 * jnp.sum(jnp.where(graph.mask, energies, 0.0))

    return conservative(
        energy, lambda key: params, GraphSpec(float(cutoff)), elements=elements, name=name
    ), params


def switch(distances: Array, cutoff: float, fade: float) -> Array:
    """One inside, zero from the cutoff on, with two continuous derivatives.

    Args:
        distances: angstrom.
        cutoff: angstrom.
        fade: width of the shell between, angstrom.
    """
    x = jnp.clip((distances - (cutoff - fade)) / fade, 0.0, 1.0)
    return 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x * x)
