"""Potentials whose forces are minus the gradient of an energy.

The energy is written as a function of the edge vectors. One gradient with respect to those gives forces and
stress together, as sums over each atom's own edges: no scatter over neighbors and no second pass for the strain.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Energy, Params, Positions
from bptt_relax.neighbors import Graph, GraphSpec, edge_vectors
from bptt_relax.potentials._contract import ApplyFn, InitFn, Potential, Prediction
from bptt_relax.systems import System

SlopeFn = Callable[[Params, Array, System, Graph], tuple[Energy, Array]]
"""(params, vectors, system, graph) -> energy () eV and its derivative with respect to the vectors (E, 3)."""


class EnergyFn(Protocol):
    """Energy of a structure from its edge vectors."""

    def __call__(self, params: Params, vectors: Array, system: System, graph: Graph) -> Energy:
        """Total energy.

        Args:
            params: parameters of the potential.
            vectors: (E, 3) from center to neighbor, angstrom; constant where padded.
            system: species and masks; positions enter through ``vectors`` only.
            graph: edges, bonds and angles.

        Returns:
            () eV. Terms of padded edges, bonds, angles and atoms must be masked out.
        """
        ...


def conservative(
    energy: EnergyFn,
    init: InitFn,
    graph: GraphSpec,
    *,
    elements: tuple[int, ...] = (),
    name: str = "potential",
) -> Potential:
    """Build a potential from an energy.

    Args:
        energy: total energy from edge vectors.
        init: key -> params.
        graph: cutoffs of the graph the energy reads. The energy must go smoothly to zero there.
        elements: atomic numbers it covers; empty for any.
        name: for messages and results.
    """
    energy = full_matmul(energy)

    # A relaxation evaluates in several branches and passes: compiled on its own, the network is traced once for all.
    @jax.jit
    def value_and_slope(params: Params, vectors: Array, system: System, graph: Graph) -> tuple[Energy, Array]:
        return jax.value_and_grad(energy, argnums=1)(params, vectors, system, graph)

    lean = _lean(energy, value_and_slope)
    return Potential(
        init, _assemble(value_and_slope), graph, True, elements, name, apply_lean=_assemble(lean)
    )


def _assemble(value_and_slope: SlopeFn) -> ApplyFn:
    """Forces and stress from the derivative of the energy with respect to each edge vector."""

    @full_matmul
    def apply(params: Params, positions: Positions, system: System, graph: Graph) -> Prediction:
        vectors = edge_vectors(graph, positions, system.cell)
        value, slope = value_and_slope(params, vectors, system, graph)
        slope = jnp.where(graph.mask[:, None], slope, 0.0)
        # Edge (i, j) pulls on i with +slope; seen from j the same pair is graph.reverse.
        pull = slope - slope[graph.reverse]
        forces = jax.ops.segment_sum(pull, graph.centers, positions.shape[0], indices_are_sorted=True)
        volume = jnp.abs(jnp.linalg.det(system.cell))
        stress = jnp.where(graph.mask[:, None], vectors, 0.0).T @ slope / volume
        return Prediction(value, jnp.where(system.mask[:, None], forces, 0.0), 0.5 * (stress + stress.T))

    return apply


def _lean(energy: EnergyFn, value_and_slope: SlopeFn) -> SlopeFn:
    """The same energy and slope, stored as their inputs only and pulled back as reverse over forward.

    For cotangents a of the energy E(p, v) and s of its slope g = dE/dv, the pullback is the gradient with respect
    to (p, v) of a E + s . g, and s . g is one forward-mode derivative of E along s. So the backward pass of a force
    costs one jvp and its transpose, where ordinary reverse mode transposes the whole gradient computation.
    """

    def forward(params: Params, vectors: Array, system: System, graph: Graph):
        return value_and_slope(params, vectors, system, graph), (params, vectors, system, graph)

    @jax.jit
    def backward(residuals, cotangents):
        params, vectors, system, graph = residuals
        value_cotangent, slope_cotangent = cotangents

        def paired(params: Params, vectors: Array) -> Energy:
            value, along = jax.jvp(lambda v: energy(params, v, system, graph), (vectors,), (slope_cotangent,))
            return value_cotangent * value + along

        # Species, masks and the graph are choices; positions and cell act through the vectors only.
        return *jax.grad(paired, argnums=(0, 1))(params, vectors), None, None

    lean = jax.custom_vjp(value_and_slope)
    lean.defvjp(forward, backward)
    return lean
