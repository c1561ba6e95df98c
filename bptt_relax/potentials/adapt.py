"""ADAPT as a Flax module: a transformer over atoms that predicts forces directly.

Dramko et al., arXiv:2509.24115. Every atom is one token and sees every other; there are no neighbors, no cutoff and
no periodic images. The model reads coordinates as they stand, so it is not equivariant, it takes two images of an
atom for different places, and its forces are the gradient of no energy. Relaxations keep positions unwrapped, so that
nothing jumps along the way; structures that are compared must be wrapped alike.

Different from the published model on purpose: coordinates count from the centroid of the atoms, so that the origin of
a file means nothing; and what an element's properties do starts at zero, so that an element which training never
varied is taken for the ones it saw, and not for noise.
"""

from typing import NamedTuple, Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax import trees
from bptt_relax._types import Array, Forces, Params, Positions
from bptt_relax.neighbors import Graph
from bptt_relax.potentials import element_properties
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.direct import direct
from bptt_relax.systems import System

SPREAD = 0.3
"""What is standardized is divided by this much of its standard deviation, as published."""

_TABLE = element_properties.table()
_ROWS = _TABLE[list(element_properties.ELEMENTS)]


class Config(NamedTuple):
    """Sizes and constants of a model; none of them trains.

    Attributes:
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


class EncoderLayer(nn.Module):
    """Attention and a feed-forward network, each added to its input and normalized afterwards.

    Attributes:
        config: of the model.
        training: drop activations; needs a random key under the name ``dropout``.
    """

    config: Config
    training: bool

    @nn.compact
    def __call__(self, tokens: Array, attended: Array) -> Array:
        """New tokens (N, width).

        Args:
            tokens: (N, width).
            attended: (1, N, N) bool, which token (last axis) each may look at.
        """
        c = self.config
        drop = nn.Dropout(c.dropout, deterministic=not self.training)
        attention = nn.MultiHeadDotProductAttention(
            num_heads=c.num_heads,
            dropout_rate=c.dropout,
            broadcast_dropout=False,
            deterministic=not self.training,
            name="attention",
        )
        tokens = nn.LayerNorm(name="attention_norm")(tokens + drop(attention(tokens, mask=attended)))
        hidden = drop(nn.relu(nn.Dense(c.hidden, name="hidden")(tokens)))
        return nn.LayerNorm(name="norm")(tokens + drop(nn.Dense(c.width, name="out")(hidden)))


class Adapt(nn.Module):
    """Forces of one structure from coordinates and element properties.

    Attributes:
        config: sizes and constants.
        training: drop activations.
    """

    config: Config
    training: bool = False

    @nn.compact
    def __call__(self, positions: Positions, species: Array, mask: Array) -> Forces:
        """Forces.

        Args:
            positions: (N, 3) angstrom.
            species: (N,) atomic numbers, 0 where padded. An element without properties makes all forces NaN.
            mask: (N,) bool.

        Returns:
            (N, 3) eV/angstrom, meaningless where padded.
        """
        c = self.config
        real = mask[:, None]
        centroid = trees.masked_mean(positions, mask)
        coordinates = jnp.where(real, positions - centroid, 0.0) / c.position_scale
        # In double precision first: a table in the model's own precision is the same in every program.
        scaled = (_TABLE - np.array(c.property_center)) / np.array(c.property_scale)
        properties = jnp.where(real, jnp.asarray(scaled, positions.dtype)[species], 0.0)

        tokens = nn.relu(
            nn.Dense(c.embedding, name="coordinates")(coordinates)
            + nn.Dense(c.embedding, use_bias=False, kernel_init=nn.initializers.zeros, name="properties")(
                properties
            )
        )
        tokens = nn.relu(nn.Dense(c.width, name="embedding_hidden")(tokens))
        tokens = nn.LayerNorm(name="embedding_norm")(nn.Dense(c.width, name="embedding_out")(tokens))
        tokens = nn.Dropout(c.dropout, deterministic=not self.training)(tokens)
        attended = jnp.broadcast_to(mask[None, None, :], (1, len(mask), len(mask)))
        for k in range(c.num_layers):
            tokens = EncoderLayer(c, self.training, name=f"layer_{k}")(tokens, attended)
        return c.force_scale * nn.Dense(3, name="forces")(nn.LayerNorm(name="norm")(tokens))


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
    if missing := sorted(set(elements) - set(element_properties.ELEMENTS)):
        raise ValueError(f"no tabulated properties for the elements with atomic numbers {missing}")
    module = Adapt(config)

    def init(key) -> Params:
        one = (jnp.zeros((1, 3)), jnp.zeros((1,), jnp.int32), jnp.ones((1,), bool))
        with jax.numpy_rank_promotion("allow"):
            # Lazily: shapes are traced and nothing but the parameters is computed.
            return trees.cast(module.lazy_init(key, *one)["params"], jnp.zeros(()).dtype)

    def forces(params: Params, positions: Positions, system: System, graph: Graph) -> Forces:
        del graph
        return _apply(module, params, positions, system)

    return direct(forces, init, elements=elements or element_properties.ELEMENTS, name=name)


def noisy_forces(config: Config) -> NoisyForcesFn:
    """The forces as training sees them: with dropout. `build` has the same model without."""
    module = Adapt(config, training=True)

    def forces(params, positions, system, graph, key) -> Forces:
        del graph
        predicted = _apply(module, params, positions, system, rngs={"dropout": key})
        return jnp.where(system.mask[:, None], predicted, 0.0)

    return forces


def _apply(module: Adapt, params: Params, positions: Positions, system: System, **options) -> Forces:
    # Biases of one row meet tokens of many rows everywhere in here, on purpose.
    with jax.numpy_rank_promotion("allow"):
        found = module.apply({"params": params}, positions, system.species, system.mask, **options)
    return cast(Forces, found)
