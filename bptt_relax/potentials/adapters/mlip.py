"""Force fields of instadeepai/mlip: MACE, NequIP, ViSNet, eSEN (Brunken et al., arXiv:2505.22397)."""

from typing import Any

import jax
import jax.numpy as jnp

from bptt_relax._types import Array, Cell, Energy, Params
from bptt_relax.elements.rows import rows
from bptt_relax.neighbors import Graph, GraphSpec
from bptt_relax.outcomes import ModelError
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.conservative import conservative
from bptt_relax.systems import System


def from_mlip(force_field: Any, *, name: str = "") -> tuple[Potential, Params]:
    """A potential from a ``mlip.models.ForceField``; its network reads our edges, every periodic image of them.

    Args:
        force_field: with its parameters, as ``mlip.models.model_io`` loads it.
        name: for messages and results; that of its network when empty.

    Returns:
        the potential, and parameters as ``force_field.params`` holds them: ``dataclasses.replace(force_field,
        params=tuned)`` is the tuned force field.

    Raises:
        ModelError: mlip is not installed.
        ValueError: a force field with long-range terms, charges, or experts that were not merged.
    """
    try:
        from mlip.graph import EdgeOrdering, GraphEdges, GraphGlobals, GraphNodes  # pyright: ignore[reportMissingImports]
        from mlip.graph import Graph as MlipGraph  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelError("mlip is not installed: pip install 'bptt-relax[mlip]'") from error

    network = force_field.predictor.mlip_network
    _require_short_ranged(force_field)
    cutoff = float(force_field.cutoff_distance)
    elements = tuple(sorted(force_field.allowed_atomic_numbers))
    row_of = rows(elements)

    def as_mlip(vectors: Array, system: System, graph: Graph) -> Any:
        """Two graphs, as mlip pads: all atoms, and one that is not there and takes the padded edges."""
        num_atoms = system.mask.shape[0]
        far = jnp.asarray([[0.0, 0.0, 2.0 * cutoff]], vectors.dtype)
        arrows = jnp.where(graph.mask[:, None], vectors, far)
        real = jnp.sum(graph.mask)
        return MlipGraph(
            nodes=GraphNodes(
                atomic_numbers=jnp.append(jnp.where(system.mask, system.species, elements[0]), elements[0]),
                positions=jnp.zeros((num_atoms + 1, 3), vectors.dtype),
            ),
            edges=GraphEdges(displ_fun=jax.tree_util.Partial(_ready_made, arrows)),
            globals=GraphGlobals(
                cell=jnp.stack([system.cell, system.cell]), weight=jnp.ones(2, vectors.dtype)
            ),
            n_node=jnp.asarray([num_atoms, 1]),
            n_edge=jnp.stack([real, graph.mask.shape[0] - real]),
            # Its kernels want edges sorted by sender. Each pair is there in both directions: ours are.
            senders=jnp.where(graph.mask, graph.centers, num_atoms),
            receivers=jnp.where(graph.mask, graph.neighbors, num_atoms),
            ordering=EdgeOrdering.SENDER,
        )

    def energy(params: Params, vectors: Array, system: System, graph: Graph) -> Energy:
        weights = {collection: values["mlip_network"] for collection, values in params.items()}
        # Written for JAX's default, which promotes ranks.
        with jax.numpy_rank_promotion("allow"):
            filled = network.apply(weights, as_mlip(vectors, system, graph))
        energies = filled.nodes.features["energy"][:-1]
        # mlip takes an element it lacks for its first.
        lacking = jnp.asarray(row_of)[system.species] < 0
        return jnp.sum(jnp.where(system.mask, jnp.where(lacking, jnp.nan, energies), 0.0))

    potential = conservative(
        energy,
        lambda key: force_field.params,
        GraphSpec(cutoff),
        elements=elements,
        name=name or type(network).__name__,
    )
    return potential, force_field.params


def _ready_made(arrows: Array, senders: Array, receivers: Array, cell: Cell) -> Array:
    """What mlip calls a displacement function: here the vectors are known."""
    del senders, receivers, cell
    return arrows


def _require_short_ranged(force_field: Any) -> None:
    config = force_field.config
    beyond = {
        "long-range terms": force_field.long_range_cutoff_distance is not None,
        "a Coulomb term": getattr(config, "use_coulomb_term", False),
        "a total charge": getattr(config, "use_total_charge_embedding", False),
        "experts (force_field.prepare_experts_for_inference merges them)": getattr(config, "moe", None)
        is not None,
    }
    if found := [what for what, there in beyond.items() if there]:
        raise ValueError(f"this force field has {', '.join(found)}: only short-ranged ones are taken")
