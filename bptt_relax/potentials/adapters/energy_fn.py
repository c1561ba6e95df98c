"""Any ``energy_fn(params, ...)``: of positions and cell, of edge vectors, or of jax-md's neighbor list."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bptt_relax._precision import full_matmul
from bptt_relax._types import Array, Energy, Params, Positions
from bptt_relax.neighbors import Graph, GraphSpec
from bptt_relax.potentials._contract import Potential, Prediction
from bptt_relax.potentials.adapters import inputs
from bptt_relax.potentials.conservative import conservative
from bptt_relax.systems import System


def from_energy_fn(
    energy_fn: Callable[..., Any],
    params: Params,
    cutoff: float,
    *,
    bond_cutoff: float = 0.0,
    neighbors_per_atom: int | None = None,
    elements: tuple[int, ...] = (),
    name: str = "adapted",
) -> tuple[Potential, Params]:
    """A potential from an energy; forces and stress are its derivatives.

    Args:
        energy_fn: (params, ...) -> energy () eV, or energies of atoms (N,) eV, which are masked and summed here. It
            gets what its further parameters are called: ``positions``, ``cell``, ``species``, ``mask``, ``vectors``,
            ``distances``, ``senders``, ``receivers``, jax-md's ``R``, ``box``, ``neighbor`` and ``perturbation``, and
            more (`inputs.OFFERED`). One that asks for ``vectors`` or ``distances`` sees every periodic image and is
            right in any cell; one that asks for ``positions`` is responsible for images itself. ``neighbor`` names no
            images: where the cell is smaller than twice the cutoff the energy is NaN, never silently wrong. With it
            there is a stress only where ``perturbation`` is a parameter and is passed to jax-md's energies: their
            derivative by ``box`` is another quantity.
        params: what trains: a pytree of floats.
        cutoff: distance at which the energy of a pair has gone smoothly to zero, angstrom.
        bond_cutoff: of the bonds and angles of ``graph``, angstrom; zero for none.
        neighbors_per_atom: makes ``neighbor`` a dense list of this many, as jax-md's many-body energies want it; a
            list of pairs when not given. The energy is NaN where an atom has more.
        elements: atomic numbers it covers; empty for any.
        name: for messages and results.

    Raises:
        ValueError: it asks for what is not offered, for positions and edge vectors at once, or can't tell padding.
    """
    what = f"energy_fn of {name!r}"
    asked = inputs.asked_for(energy_fn, skip=1, what=what)
    spec = GraphSpec(float(cutoff), float(bond_cutoff))
    if inputs.ON_EDGES & set(asked):
        if mixed := inputs.ON_POSITIONS & set(asked):
            raise ValueError(
                f"{what} asks for edges and for {', '.join(sorted(mixed))}: forces and stress of edges come from the "
                "edge vectors alone, so let it ask for one or the other"
            )

        def on_edges(params: Params, vectors: Array, system: System, graph: Graph) -> Energy:
            given = inputs.edge_inputs(asked, vectors, system, graph, cutoff)
            # Written for JAX's default, which promotes ranks.
            with jax.numpy_rank_promotion("allow"):
                value = energy_fn(params, **given)
            return total(value, system, what)

        potential = conservative(on_edges, lambda key: params, spec, elements=elements, name=name)
        return potential, params
    inputs.require_smooth_padding(asked, what)

    def neighbor(graph: Graph, positions: Positions) -> Any:
        from bptt_relax.potentials.adapters.jax_md_neighbors import (
            neighbor_list,  # jax-md takes seconds to import
        )

        return neighbor_list(graph, positions, neighbors_per_atom)

    perturbed = "perturbation" in asked
    has_stress = perturbed or "neighbor" not in asked

    def energy(params: Params, positions: Positions, strain: Array, system: System, graph: Graph) -> Energy:
        deformation = jnp.eye(3, dtype=positions.dtype) + 0.5 * (strain + strain.T)
        moved, cell = positions, system.cell
        if not perturbed:
            moved, cell = positions @ deformation, system.cell @ deformation
        # Whoever asks for the system must see the cell that is strained.
        given = inputs.positional_inputs(
            asked, moved, cell, system._replace(cell=cell), graph, cutoff, neighbor, deformation
        )
        with jax.numpy_rank_promotion("allow"):
            value = energy_fn(params, **given)
        value = total(value, system, what)
        if "neighbor" in asked:
            from bptt_relax.potentials.adapters.jax_md_neighbors import can_hold

            value = jnp.where(can_hold(graph, system, cutoff, neighbors_per_atom), value, jnp.nan)
        return value

    @full_matmul
    def apply(params: Params, positions: Positions, system: System, graph: Graph) -> Prediction:
        still = jnp.zeros((3, 3), positions.dtype)
        value, (slope, virial) = jax.value_and_grad(energy, argnums=(1, 2))(
            params, positions, still, system, graph
        )
        forces = jnp.where(system.mask[:, None], -slope, 0.0)
        stress = virial / jnp.abs(jnp.linalg.det(system.cell)) if has_stress else None
        return Prediction(value, forces, stress)

    predicts = ("energy", "forces", "stress") if has_stress else ("energy", "forces")
    return Potential(lambda key: params, apply, spec, True, elements, name, predicts=predicts), params


def total(value: Array, system: System, what: str) -> Energy:
    """Energy of the structure from that of the structure, or from those of its atoms.

    Args:
        value: () or (N,) or (N, 1) eV.
        system: says which atoms are padding.
        what: what to call its source in messages.

    Raises:
        ValueError: another shape.
    """
    value = jnp.asarray(value)
    num_atoms = system.mask.shape[0]
    if value.shape == ():
        return value
    if value.shape in ((num_atoms,), (num_atoms, 1)):
        return jnp.sum(jnp.where(system.mask, value.reshape(num_atoms), 0.0))
    raise ValueError(
        f"{what} gave an array of shape {value.shape}: it must give the energy, (), or energies of atoms, "
        f"({num_atoms},)"
    )
