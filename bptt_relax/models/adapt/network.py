"""ADAPT as a Flax module: a transformer over atoms that predicts forces directly.

Dramko et al., arXiv:2509.24115: one token per atom, from its coordinates and nine tabulated properties of its element,
encoder layers, and a force read off each token. Two ways to make tokens of a structure:

- The published form (``reach`` zero): all atoms of the structure, in coordinates from their centroid. No neighbors, no
  cutoff, no periodic images: two images of an atom are different places, and structures must be wrapped alike.
- For each atom its surroundings (``reach`` in angstrom): the atom and its neighbors, images included, in coordinates
  from that atom; the force is read off that atom's token. Translations, wrapping and the size of the cell then mean
  nothing, and neighbors fade out smoothly.

Either way coordinates are read as they stand: a rotated structure is a new one. Forces are the gradient of no energy.

Different from the published model besides: what an element's properties do starts at zero, so that an element which
training never varied is taken for the ones it saw, and not for noise; attention has no biases inside, and starts local.
"""

from typing import NamedTuple, Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax import trees
from bptt_relax._types import Array, Forces, Params, Positions
from bptt_relax.elements import properties
from bptt_relax.neighbors import NO_GRAPH, Graph, GraphSpec, edge_vectors
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.direct import direct
from bptt_relax.systems import System

SPREAD = 0.3
"""What is standardized is divided by this much of its standard deviation, as published."""

_BENDS = 4.0
"""How far from the centroid the first layer's bends lie at the start, in units of ``position_scale``."""

_TABLE = properties.table()
_ROWS = _TABLE[list(properties.ELEMENTS)]


class Config(NamedTuple):
    """Sizes and constants of a model; none of them trains.

    Attributes:
        reach: angstrom, how far an atom sees; zero for the published form.
        slots: most neighbors that an atom within reach may have; with more its forces are NaN.
        width: of a token.
        hidden: width of the feed-forward networks.
        num_layers: encoder layers.
        num_heads: of the attention; divides ``width``.
        embedding: width of the first layer of the embedding.
        dropout: share of activations that training drops; none is dropped in predictions.
        position_scale: angstrom that count as one.
        force_scale: eV/angstrom that count as one.
        property_center: of each of the nine element properties, in its unit.
        property_scale: of each that counts as one.
    """

    reach: float = 0.0
    slots: int = 40
    width: int = 256
    hidden: int = 512
    num_layers: int = 8
    num_heads: int = 8
    embedding: int = 128
    dropout: float = 0.05
    position_scale: float = 1.0
    force_scale: float = 1.0
    property_center: tuple[float, ...] = tuple(_ROWS.mean(axis=0).tolist())
    property_scale: tuple[float, ...] = tuple((SPREAD * _ROWS.std(axis=0)).tolist())


def property_center(species: np.ndarray) -> tuple[float, ...]:
    """Mean of each property over atoms, to center the tokens of a training set.

    Args:
        species: (M,) atomic numbers, all of them tabulated.
    """
    return tuple(_TABLE[species].mean(axis=0).tolist())


class Attention(nn.Module):
    """Sums of what tokens hold, weighted by how well a query meets their keys.

    Queries start equal to keys, which makes the first weights a kernel of nearness: tokens of near atoms resemble each
    other.

    Attributes:
        config: of the model.
        drop: dropout of the weights.
    """

    config: Config
    drop: nn.Dropout

    @nn.compact
    def __call__(self, queries: Array, tokens: Array, presence: Array) -> Array:
        """Sums (..., Q, width).

        Args:
            queries: (..., Q, width), tokens that sum.
            tokens: (..., M, width), tokens that are summed.
            presence: (..., M), factor of each between 0 and 1.
        """
        heads, width = self.config.num_heads, self.config.width
        shape = (width, heads, width // heads)
        of_width = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
        key = self.param("key", of_width, shape)
        query = self.param("query", lambda _: heads**0.5 * key)
        value = self.param("value", of_width, shape)
        q = jnp.einsum("...nc,chd->...hnd", queries, query)
        k, v = (jnp.einsum("...mc,chd->...hmd", tokens, kernel) for kernel in (key, value))
        scores = jnp.einsum("...hnd,...hmd->...hnm", q, k) * (width // heads) ** -0.5
        # A factor, and no large negative score: what fades out does so smoothly, and what is absent weighs nothing.
        weights = presence[..., None, None, :] * jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = self.drop(weights / jnp.where(total > 0, total, 1.0))
        sums = jnp.einsum("...hnm,...hmd->...nhd", weights, v)
        return nn.Dense(width, name="out")(sums.reshape(queries.shape))


class EncoderLayer(nn.Module):
    """Attention and a feed-forward network, each added to its input and normalized afterwards.

    Attributes:
        config: of the model.
        training: drop activations; needs a random key under the name ``dropout``.
    """

    config: Config
    training: bool

    @nn.compact
    def __call__(self, queries: Array, tokens: Array, presence: Array) -> Array:
        """New tokens (..., Q, width) in place of the queries; arguments as for `Attention`."""
        c = self.config
        drop = nn.Dropout(c.dropout, deterministic=not self.training)
        sums = drop(Attention(c, drop, name="attention")(queries, tokens, presence))
        queries = nn.LayerNorm(name="attention_norm")(queries + sums)
        hidden = drop(nn.relu(nn.Dense(c.hidden, name="hidden")(queries)))
        return nn.LayerNorm(name="norm")(queries + drop(nn.Dense(c.width, name="out")(hidden)))


class Adapt(nn.Module):
    """Forces on atoms from a set of tokens that attend to each other.

    Attributes:
        config: sizes and constants.
        training: drop activations.
    """

    config: Config
    training: bool = False

    @nn.compact
    def __call__(self, coordinates: Array, species: Array, presence: Array, num_wanted: int) -> Array:
        """Forces.

        Args:
            coordinates: (..., M, 3) angstrom.
            species: (..., M) atomic numbers, 0 where padded. One without tabulated properties makes all forces NaN.
            presence: (..., M), how much of each token is there: 1, 0 where padded, less where it fades out.
            num_wanted: static; forces on the first so many.

        Returns:
            (..., num_wanted, 3) eV/angstrom, meaningless where padded.
        """
        c = self.config
        # In double precision first: a table in the model's own precision is the same in every program.
        scaled = (_TABLE - np.array(c.property_center)) / np.array(c.property_scale)
        properties = jnp.where(presence[..., None] > 0, jnp.asarray(scaled, coordinates.dtype)[species], 0.0)

        # The bends of the first layer start all over the structure: without biases all would pass through its center.
        places = nn.Dense(
            c.embedding,
            kernel_init=nn.initializers.normal(1.0),
            bias_init=nn.initializers.normal(_BENDS),
            name="coordinates",
        )(coordinates / c.position_scale)
        elements = nn.Dense(
            c.embedding, use_bias=False, kernel_init=nn.initializers.zeros, name="properties"
        )(properties)
        tokens = nn.relu(nn.Dense(c.width, name="embedding_hidden")(nn.relu(places + elements)))
        tokens = nn.LayerNorm(name="embedding_norm")(nn.Dense(c.width, name="embedding_out")(tokens))
        tokens = nn.Dropout(c.dropout, deterministic=not self.training)(tokens)
        for k in range(c.num_layers):
            # In the last layer only tokens whose forces are read need queries.
            queries = tokens if k < c.num_layers - 1 else tokens[..., :num_wanted, :]
            tokens = EncoderLayer(c, self.training, name=f"layer_{k}")(queries, tokens, presence)
        return c.force_scale * nn.Dense(3, name="forces")(nn.LayerNorm(name="norm")(tokens))


class Tokens(NamedTuple):
    """What the model reads; one set for a whole structure, or one for each atom.

    Attributes:
        coordinates: (..., M, 3) angstrom.
        species: (..., M).
        presence: (..., M).
    """

    coordinates: Array
    species: Array
    presence: Array


def all_atoms(positions: Positions, system: System) -> Tokens:
    """The published form: every atom of the structure, in coordinates from their centroid."""
    centered = positions - trees.masked_mean(positions, system.mask)
    coordinates = jnp.where(system.mask[:, None], centered, 0.0)
    return Tokens(coordinates, system.species, system.mask.astype(positions.dtype))


def surroundings(positions: Positions, system: System, graph: Graph, config: Config) -> Tokens:
    """Each atom (first token) and its neighbors within reach, images included, as seen from it: M = 1 + slots.

    Neighbors fade out smoothly between 0.6 and 1 times the reach, so that none appears or goes with a jump.
    """
    num_atoms = positions.shape[0]
    # Edges stand sorted by their center: those of one atom are a run of them.
    centers = jnp.where(graph.mask, graph.centers, num_atoms)
    first = jnp.searchsorted(centers, jnp.arange(num_atoms + 1, dtype=centers.dtype))
    index = first[:-1, None] + jnp.arange(config.slots)
    there = index < first[1:, None]
    index = jnp.minimum(index, len(centers) - 1)

    vectors = edge_vectors(graph, positions, system.cell)[index]
    vectors = jnp.where(there[..., None], vectors, 0.0)
    lengths = trees.safe_norm(vectors)
    t = jnp.clip((lengths / config.reach - 0.6) / 0.4, 0.0, 1.0)
    fading = jnp.where(there, 1 - t**3 * (10 - 15 * t + 6 * t**2), 0.0)
    # Rather nothing than the forces of some of the neighbors.
    crowded = first[1:] - first[:-1] > config.slots
    fading = jnp.where(crowded[:, None], jnp.nan, fading)

    species = jnp.where(there, system.species[graph.neighbors[index]], 0)
    return Tokens(
        coordinates=jnp.pad(vectors, ((0, 0), (1, 0), (0, 0))),
        species=jnp.concatenate([system.species[:, None], species], axis=1),
        presence=jnp.pad(fading, ((0, 0), (1, 0)), constant_values=1.0),
    )


class NoisyForcesFn(Protocol):
    """Forces with the noise of training."""

    def __call__(
        self, params: Params, positions: Positions, system: System, graph: Graph, key: Array
    ) -> Forces:
        """Forces (N, 3) eV/angstrom, with activations dropped at random by this key; zero where padded."""
        ...


def build(config: Config | None = None, *, elements: tuple[int, ...] = (), name: str = "adapt") -> Potential:
    """ADAPT with random starting parameters; pretrained ones come from `pretrained.load`.

    Args:
        config: sizes and constants.
        elements: atomic numbers its weights cover; every element that has the nine properties when empty.
        name: for messages and results.

    Raises:
        ValueError: the heads do not divide the width, or an element has no tabulated properties.
    """
    config = Config() if config is None else config
    if config.width % config.num_heads:
        raise ValueError(f"num_heads={config.num_heads} must divide width={config.width}")
    if missing := sorted(set(elements) - set(properties.ELEMENTS)):
        raise ValueError(f"no tabulated properties for the elements with atomic numbers {missing}")
    module = Adapt(config)

    def init(key) -> Params:
        one = (jnp.zeros((1, 3)), jnp.zeros((1,), jnp.int32), jnp.ones((1,)))
        with jax.numpy_rank_promotion("allow"):
            # Lazily: shapes are traced and nothing but the parameters is computed.
            return trees.cast(module.lazy_init(key, *one, num_wanted=1)["params"], jnp.zeros(()).dtype)

    def forces(params: Params, positions: Positions, system: System, graph: Graph) -> Forces:
        return _apply(module, params, positions, system, graph)

    graph = GraphSpec(config.reach) if config.reach else NO_GRAPH
    return direct(forces, init, graph, elements=elements or properties.ELEMENTS, name=name)


def noisy_forces(config: Config) -> NoisyForcesFn:
    """The forces as training sees them: with dropout. `build` has the same model without."""
    module = Adapt(config, training=True)

    def forces(params, positions, system, graph, key) -> Forces:
        predicted = _apply(module, params, positions, system, graph, rngs={"dropout": key})
        return jnp.where(system.mask[:, None], predicted, 0.0)

    return forces


def _apply(
    module: Adapt, params: Params, positions: Positions, system: System, graph: Graph, **options
) -> Forces:
    # Biases of one row meet tokens of many rows everywhere in here, on purpose.
    with jax.numpy_rank_promotion("allow"):
        if module.config.reach:
            tokens = surroundings(positions, system, graph, module.config)
            found = module.apply({"params": params}, *tokens, num_wanted=1, **options)
            return cast(Forces, found)[:, 0]
        tokens = all_atoms(positions, system)
        found = module.apply({"params": params}, *tokens, num_wanted=len(positions), **options)
    return cast(Forces, found)
