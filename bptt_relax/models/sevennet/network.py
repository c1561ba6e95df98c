"""SevenNet as a Flax module on padded graphs.

Park, Kim, Hwang and Han, Journal of Chemical Theory and Computation 20, 4857 (2024), doi:10.1021/acs.jctc.4c00190: a
NequIP (Batzner et al., Nature Communications 13, 2453 (2022), doi:10.1038/s41467-022-29939-5) whose published models
carry no parity, so that products of any degrees are allowed. A model trained on several levels of theory (modalities)
has weights of its own for each: Kim et al., doi:10.1021/jacs.4c14455.
"""

from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Array, Energy, Params
from bptt_relax.elements.rows import one_hot, rows
from bptt_relax.equivariant import (
    Features,
    Linear,
    convolution,
    gate,
    one_edge,
    paths,
    silu,
    spherical_harmonics,
)
from bptt_relax.neighbors import Graph, GraphSpec
from bptt_relax.potentials import Potential, conservative
from bptt_relax.systems import System

SILU_NORM = 1 / 1.6791767923989418
"""Root mean square of silu over a standard normal distribution as e3nn for torch estimates it from a million random
numbers, 0.1% from the integral: published weights were trained with this number."""


class Config(NamedTuple):
    """Sizes and constants of a model; none of them trains.

    Attributes:
        species: atomic numbers, in the order of the rows of its tables.
        channels: of each degree 0, 1, ... of the hidden features.
        max_harmonic: largest degree of the spherical harmonics.
        unit_vectors: harmonics of directions; otherwise of the edge vectors themselves, growing with their length.
        cutoff: angstrom.
        onset: where messages begin to fade (XPLOR), angstrom; 0 for a polynomial envelope from zero to the cutoff.
        envelope_power: p of that polynomial.
        num_radial: radial basis functions.
        radial_widths: hidden widths of the radial network.
        denominators: of the sum over neighbors, one for each layer.
        scale: of the energy of an atom, eV.
        modalities: levels of theory that the weights know; 0 for a model with one.
        modality: the one that is predicted.
    """

    species: tuple[int, ...] = (14,)
    channels: tuple[int, ...] = (128, 64, 32)
    max_harmonic: int = 2
    unit_vectors: bool = True
    cutoff: float = 5.0
    onset: float = 4.5
    envelope_power: float = 6.0
    num_radial: int = 8
    radial_widths: tuple[int, ...] = (64, 64)
    denominators: tuple[float, ...] = (36.0,) * 5
    scale: float = 1.0
    modalities: int = 0
    modality: int = 0

    @property
    def num_layers(self) -> int:
        """Message passing layers."""
        return len(self.denominators)

    def outputs(self, layer: int) -> tuple[int, ...]:
        """Channels of each degree after a layer: only scalars reach the readout."""
        return self.channels if layer < self.num_layers - 1 else self.channels[:1]


def envelope(lengths: Array, config: Config) -> Array:
    """Factor of messages at lengths (M,) in angstrom: 1 at short distance, 0 from the cutoff on."""
    inside = lengths < config.cutoff
    r = jnp.where(inside, lengths, 0.5 * config.cutoff)
    if config.onset:
        end, on = config.cutoff**2, config.onset**2
        fading = (end - r * r) ** 2 * (end + 2 * r * r - 3 * on) / (end - on) ** 3
        factor = jnp.where(r < config.onset, 1.0, fading)
    else:
        x, p = r / config.cutoff, config.envelope_power
        factor = 1 - x**p * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x)
    return jnp.where(inside, factor, 0.0)


_KERNEL = nn.initializers.normal(1.0)


def _with_modality(features: Features, config: Config) -> Features:
    """Features with the indicator of the modality as further scalars."""
    if not config.modalities:
        return features
    scalars, *others = features
    chosen = jnp.zeros((config.modalities,), scalars.dtype).at[config.modality].set(1.0)
    shape = (*scalars.shape[:-1], config.modalities)
    return [jnp.concatenate([scalars, jnp.broadcast_to(chosen, shape)], axis=-1), *others]


class Layer(nn.Module):
    """One round of messages: convolution, self-connection, gate.

    Attributes:
        config: of the model.
        index: of the layer.
    """

    config: Config
    index: int

    @nn.compact
    def __call__(self, features: Features, harmonics: Features, basis: Array, graph: Graph) -> list[Array]:
        """New features of atoms.

        Args:
            features: of atoms.
            harmonics: (E, 2l + 1) of each degree.
            basis: (E, num_radial), zero where padded and at the cutoff.
            graph: the neighbors.
        """
        c = self.config
        scalars, *others = c.outputs(self.index)
        widths = (scalars + sum(others), *others)
        own = Linear(widths, name="self_connection")(features)
        mixed = Linear([x.shape[-1] for x in features], name="before")(_with_modality(features, c))

        radial = basis
        for k, width in enumerate(c.radial_widths):
            kernel = self.param(f"radial_{k}", _KERNEL, (radial.shape[-1], width))
            # Without biases: what is zero at the cutoff stays zero through every layer.
            radial = silu(radial @ (kernel * radial.shape[-1] ** -0.5)) / SILU_NORM
        ways = paths(len(features), c.max_harmonic, len(others), parity=False)
        sizes = [features[first].shape[-1] for way in ways for first, _ in way]
        kernel = self.param("radial_out", _KERNEL, (radial.shape[-1], sum(sizes)))
        kernels = jnp.split(kernel * radial.shape[-1] ** -0.5, np.cumsum(sizes)[:-1], axis=1)
        sums = convolution(mixed, harmonics, radial, kernels, ways, graph)
        sums = [total / c.denominators[self.index] for total in sums]

        new = Linear(widths, name="after")(_with_modality(sums, c))
        for degree, x in enumerate(own):
            new[degree] = new[degree] + x
        return gate(new, SILU_NORM)


class SevenNet(nn.Module):
    """Total energy of one structure from its edge vectors."""

    config: Config

    @nn.compact
    def __call__(self, vectors: Array, species: Array, atom_mask: Array, graph: Graph) -> Energy:
        """Total energy.

        Args:
            vectors: (E, 3) angstrom, constant where padded.
            species: (N,) atomic numbers, 0 where padded. An element that the model lacks makes the energy NaN.
            atom_mask: (N,) bool.
            graph: the edges.

        Returns:
            () eV.
        """
        c = self.config
        lengths = jnp.sqrt(jnp.sum(vectors * vectors, axis=-1))
        harmonics = spherical_harmonics(
            vectors / lengths[:, None] if c.unit_vectors else vectors, c.max_harmonic
        )
        frequencies = self.param("frequencies", _frequencies(c.cutoff), (c.num_radial,))
        bessel = 2 / c.cutoff * jnp.sin(frequencies * lengths[:, None]) / lengths[:, None]
        basis = jnp.where(graph.mask[:, None], bessel * envelope(lengths, c)[:, None], 0.0)

        row = jnp.asarray(rows(c.species))[species]
        features: Features = [one_hot(row, len(c.species), vectors.dtype)[:, None, :]]
        features = Linear(c.channels[:1], name="embedding")(features)
        for k in range(c.num_layers):
            features = Layer(c, k, name=f"layer_{k}")(features, harmonics, basis, graph)
        hidden = Linear([c.channels[0] // 2], name="hidden")(_with_modality(features, c))
        (readout,) = Linear([1], name="readout")(hidden)
        table = (max(c.modalities, 1), len(c.species))
        reference = self.param("reference_energies", nn.initializers.zeros, table)
        energies = c.scale * readout[:, 0, 0] + reference[c.modality, row]
        return jnp.sum(jnp.where(atom_mask, energies, 0.0))


def build(
    config: Config | None = None, *, elements: tuple[int, ...] = (), name: str = "sevennet"
) -> Potential:
    """SevenNet with random starting parameters; pretrained ones come from `models.load`.

    Args:
        config: sizes and constants.
        elements: atomic numbers its weights cover; those of the configuration when empty.
        name: for messages and results.
    """
    config = Config() if config is None else config
    module = SevenNet(config)

    def init(key) -> Params:
        with jax.numpy_rank_promotion("allow"):
            # Lazily: shapes are traced and nothing but the parameters is computed.
            return module.lazy_init(key, *one_edge(config.species[0]))["params"]

    def energy(params: Params, vectors: Array, system: System, graph: Graph) -> Energy:
        # Weights of one row per channel meet features of many rows everywhere in here, on purpose.
        with jax.numpy_rank_promotion("allow"):
            return cast(Energy, module.apply({"params": params}, vectors, system.species, system.mask, graph))

    return conservative(
        energy, init, GraphSpec(config.cutoff), elements=elements or config.species, name=name
    )


def _frequencies(cutoff: float):
    """Initial frequencies of the radial basis, 1/angstrom."""

    def init(key, shape):
        del key
        return jnp.pi / cutoff * jnp.arange(1, shape[0] + 1, dtype=jnp.zeros(()).dtype)

    return init
