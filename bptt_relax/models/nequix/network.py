"""Nequix as a Flax module on padded graphs.

Koker, Kotak and Smidt, arXiv:2508.16067: a small NequIP (Batzner et al., Nature Communications 13, 2453 (2022),
doi:10.1038/s41467-022-29939-5) with a normalization in each layer. No angles; many channels that rotate.
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
    RMSNorm,
    convolution,
    gate,
    one_edge,
    paths,
    silu,
    spherical_harmonics,
)
from bptt_relax.neighbors import Graph, GraphSpec
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.conservative import conservative
from bptt_relax.systems import System


class Config(NamedTuple):
    """Sizes and constants of a model; none of them trains.

    Attributes:
        species: atomic numbers, in the order of the rows of its tables.
        channels: of each degree 0, 1, ... of the hidden features; degree l has parity (-1)**l.
        max_harmonic: largest degree of the spherical harmonics.
        num_layers: message passing layers.
        cutoff: angstrom.
        num_radial: radial basis functions.
        envelope_power: p of the polynomial envelope.
        radial_width: hidden width of the radial network.
        radial_layers: its hidden layers.
        num_neighbors: sums over neighbors are divided by its square root.
        scale: of the energy of an atom, eV.
        shift: of the energy of an atom, eV.
    """

    species: tuple[int, ...] = tuple(range(1, 95))
    channels: tuple[int, ...] = (128, 64, 32, 32)
    max_harmonic: int = 3
    num_layers: int = 4
    cutoff: float = 6.0
    num_radial: int = 8
    envelope_power: float = 6.0
    radial_width: int = 64
    radial_layers: int = 2
    num_neighbors: float = 50.0
    scale: float = 1.0
    shift: float = 0.0


def radial_basis(lengths: Array, size: int, cutoff: float, power: float) -> Array:
    """Bessel functions under a polynomial envelope: (M, size) at lengths (M,) in angstrom, zero from the cutoff on.

    Gasteiger, Groß and Günnemann, Directional Message Passing for Molecular Graphs, ICLR 2020, arXiv:2003.03123.
    """
    x, p = lengths / cutoff, power
    inside = x < 1
    x = jnp.where(inside, x, 0.5)
    envelope = 1 - x**p * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x)
    scale = jnp.where(inside, envelope * (2 / cutoff) / (x * cutoff), 0.0)
    return scale[:, None] * jnp.sin(x[:, None] * (jnp.pi * jnp.arange(1, size + 1, dtype=x.dtype)))


_HIDDEN = nn.initializers.variance_scaling(4.0, "fan_in", "normal")
_LAST = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class Convolution(nn.Module):
    """Sum over neighbors of their features times harmonics of the direction, weighted by the distance.

    Attributes:
        config: of the model.
        max_degree: largest degree of the sums.
    """

    config: Config
    max_degree: int

    @nn.compact
    def __call__(self, features: Features, harmonics: Features, basis: Array, graph: Graph) -> list[Array]:
        """Sums for each degree: (N, 2l + 1, channels), those of each path side by side.

        Args:
            features: of atoms.
            harmonics: (E, 2l + 1) of each degree.
            basis: (E, num_radial), zero where padded and at the cutoff.
            graph: the neighbors.
        """
        c = self.config
        radial = basis
        for k in range(c.radial_layers):
            # Without biases: what is zero at the cutoff stays zero through every layer.
            radial = silu(radial @ self.param(f"radial_{k}", _HIDDEN, (radial.shape[-1], c.radial_width)))
        features = Linear([x.shape[-1] for x in features], name="linear")(features)
        ways = paths(len(features), c.max_harmonic, self.max_degree)
        sizes = [features[first].shape[-1] for way in ways for first, _ in way]
        kernel = self.param("radial_out", _LAST, (radial.shape[-1], sum(sizes)))
        kernels = jnp.split(kernel, np.cumsum(sizes)[:-1], axis=1)
        sums = convolution(features, harmonics, radial, kernels, ways, graph)
        return [total * c.num_neighbors**-0.5 for total in sums]


class Layer(nn.Module):
    """One round of messages: convolution, skip connection, normalization, gate.

    Attributes:
        config: of the model.
        channels: of the output, for each degree.
    """

    config: Config
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, features: Features, harmonics: Features, basis: Array, graph: Graph) -> list[Array]:
        """New features of atoms."""
        scalars, *others = self.channels
        widths = (scalars + sum(others), *others)
        sums = Convolution(self.config, len(others), name="convolution")(features, harmonics, basis, graph)
        new = Linear(widths, name="linear")(sums)
        for degree, x in enumerate(Linear(widths, name="skip")(features)):
            new[degree] = new[degree] + x
        return gate(RMSNorm(name="norm")(new))


class Nequix(nn.Module):
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
        harmonics = spherical_harmonics(vectors / lengths[:, None], c.max_harmonic)
        basis = radial_basis(lengths, c.num_radial, c.cutoff, c.envelope_power)
        basis = jnp.where(graph.mask[:, None], basis, 0.0)

        row = jnp.asarray(rows(c.species))[species]
        features: Features = [one_hot(row, len(c.species), vectors.dtype)[:, None, :]]
        for k in range(c.num_layers):
            # Only scalars reach the readout.
            channels = c.channels if k < c.num_layers - 1 else c.channels[:1]
            features = Layer(c, channels, name=f"layer_{k}")(features, harmonics, basis, graph)
        (readout,) = Linear([1], name="readout")(features)
        reference = self.param("reference_energies", nn.initializers.zeros, (len(c.species),))
        energies = c.scale * readout[:, 0, 0] + c.shift + reference[row]
        return jnp.sum(jnp.where(atom_mask, energies, 0.0))


def build(config: Config | None = None, *, elements: tuple[int, ...] = (), name: str = "nequix") -> Potential:
    """Nequix with random starting parameters; pretrained ones come from `pretrained.load`.

    Args:
        config: sizes and constants.
        elements: atomic numbers its weights cover; those of the configuration when empty.
        name: for messages and results.
    """
    config = Config() if config is None else config
    module = Nequix(config)

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
