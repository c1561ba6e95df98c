"""NequIP: jax-md's own network, on our edges.

Batzner et al., Nature Communications 13, 2453 (2022), doi:10.1038/s41467-022-29939-5. jax-md's driver sees one image
per neighbor and is silently wrong in a cell smaller than twice the cutoff. Its network reads edge vectors, so it takes
ours: every periodic image counts, and forces and stress come from one gradient.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import jraph
from jax_md.nn import nequip as jax_md_nequip

from bptt_relax._types import Array, Energy, Params
from bptt_relax.elements.rows import one_hot, rows
from bptt_relax.models.nequip.channels_last import SELF_CONNECTION, atom_energies
from bptt_relax.neighbors import Graph, GraphSpec
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.conservative import conservative
from bptt_relax.systems import System
from bptt_relax.weights.registry import SILICON_AND_DOPANTS


class Config(NamedTuple):
    """Sizes and constants of a model; none of them trains.

    Attributes:
        species: atomic numbers, in the order of the rows of its tables.
        channels: of each degree 0, 1, ... of the hidden features; degree l has parity (-1)**l.
        max_harmonic: largest degree of the spherical harmonics.
        num_layers: message passing layers.
        cutoff: angstrom. Messages fade over the last half angstrom before it.
        num_radial: radial basis functions.
        radial_width: hidden width of the radial network.
        radial_layers: its hidden layers.
        num_neighbors: sums over neighbors are divided by it.
        scale: of the energy of an atom, eV.
        shift: of the energy of an atom, eV.
    """

    species: tuple[int, ...] = SILICON_AND_DOPANTS
    channels: tuple[int, ...] = (16, 8, 4)
    max_harmonic: int = 2
    num_layers: int = 2
    cutoff: float = 5.0
    num_radial: int = 8
    radial_width: int = 32
    radial_layers: int = 2
    num_neighbors: float = 20.0
    scale: float = 1.0
    shift: float = 0.0


def build(
    config: Config | None = None,
    *,
    elements: tuple[int, ...] = (),
    name: str = "nequip",
    channels_last: bool = False,
) -> Potential:
    """NequIP with random starting parameters.

    Args:
        config: sizes and constants; a small network for silicon and its usual dopants when not given.
        elements: atomic numbers its weights cover; those of the configuration when empty.
        name: for messages and results.
        channels_last: compute the same function of the same parameters in an order that suits a CPU (the module
            `channels_last`) and not by jax-md's own code; differences are those of rounding.
    """
    config = Config() if config is None else config
    network = jax_md_nequip.NequIPEnergyModel(
        graph_net_steps=config.num_layers,
        use_sc=True,
        nonlinearities={"e": "raw_swish", "o": "tanh"},
        n_elements=len(config.species),
        hidden_irreps=_irreps(config.channels),
        sh_irreps=_irreps((1,) * (config.max_harmonic + 1)),
        num_basis=config.num_radial,
        r_max=config.cutoff,
        radial_net_n_hidden=config.radial_width,
        radial_net_n_layers=config.radial_layers,
        scale=config.scale,
        n_neighbors=config.num_neighbors,
    )
    row_of = rows(config.species)

    def init(key) -> Params:
        edge = jnp.zeros((1,), jnp.int32)
        atoms = one_hot(edge, len(config.species), jnp.zeros(()).dtype)
        with _jax_md_conventions():
            # Lazily: shapes are traced and nothing but the parameters is computed.
            params = network.lazy_init(key, _as_jraph(atoms, jnp.ones((1, 3)), edge, edge))["params"]
        return {**params, "reference_energies": jnp.zeros(len(config.species))}

    def energy(params: Params, vectors: Array, system: System, graph: Graph) -> Energy:
        row = jnp.asarray(row_of)[system.species]
        # A padded atom is of no element: without biases its features, and its energy, stay zero.
        atoms = jnp.where(
            system.mask[:, None],
            one_hot(row, len(config.species), vectors.dtype),
            jnp.zeros((), vectors.dtype),
        )
        # As long as the cutoff a message is zero, and so is its derivative.
        far = jnp.asarray([[0.0, 0.0, 2.0 * config.cutoff]], vectors.dtype)
        vectors = jnp.where(graph.mask[:, None], vectors, far)
        weights = {key: value for key, value in params.items() if key != "reference_energies"}
        with _jax_md_conventions():
            if channels_last:
                interaction = config.scale * atom_energies(weights, config, atoms, vectors, graph)
            else:
                # jax-md's arrows point from neighbor to center.
                arrows = _as_jraph(atoms, -vectors, graph.neighbors, graph.centers)
                interaction = cast(Array, network.apply({"params": weights}, arrows))
        reference = jnp.where(system.mask, params["reference_energies"][row] + config.shift, 0.0)
        return cast(Energy, jnp.sum(interaction) + jnp.sum(reference))

    return conservative(
        energy, init, GraphSpec(config.cutoff), elements=elements or config.species, name=name
    )


def take_rows(params: Params, chosen: Sequence[int], factor: float = 1.0) -> Params:
    """Parameters with other rows in the tables of the elements.

    Args:
        params: of a NequIP.
        chosen: for each element whose row it takes, its own or that of another.
        factor: on all of them.
    """
    order = jnp.asarray(chosen)

    def taken(tables: dict, axis: int) -> dict:
        return {name: factor * jnp.take(table, order, axis) for name, table in tables.items()}

    found = {**params, "Linear_0": taken(params["Linear_0"], 0)}
    for name in params:
        if name.startswith("NequIPConvolution"):
            own = taken(params[name][SELF_CONNECTION], 1)
            found[name] = {**params[name], SELF_CONNECTION: own}
    return found


@contextmanager
def _jax_md_conventions() -> Iterator[None]:
    """Within this, ranks may be promoted, as jax-md's network does everywhere, and deprecated names of e3nn called."""
    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _irreps(channels: tuple[int, ...]) -> str:
    """Channels of each degree in e3nn's notation, parities those of the harmonics."""
    return " + ".join(f"{size}x{degree}{'eo'[degree % 2]}" for degree, size in enumerate(channels))


def _as_jraph(atoms: Array, vectors: Array, senders: Array, receivers: Array) -> jraph.GraphsTuple:
    """One graph as jax-md's network reads it."""
    return jraph.GraphsTuple(
        nodes=atoms,
        edges=vectors,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=jnp.asarray([atoms.shape[0]]),
        n_edge=jnp.asarray([vectors.shape[0]]),
    )
