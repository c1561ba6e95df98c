"""CHGNet as a Flax module on padded graphs.

Deng et al., Nature Machine Intelligence 5, 1031 (2023), doi:10.1038/s42256-023-00716-3. Atom features live on
atoms, edge features on directed edges within ``cutoff``, angle features on ordered pairs of bonds (edges within
``bond_cutoff``). An undirected bond of the paper is a pair of directed copies here, kept equal: every message to
a bond is added to both.

Written for speed of the force and of its own gradient. A linear layer on concatenated features is split into one
product per kind of feature, taken where that feature lives (the atom's part once per atom, not once per edge);
core and gate of a gated layer share one product; edges that are not bonds never change, so their part of every
layer comes straight from the radial basis.
"""

from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bptt_relax._types import Array, Energy, Params
from bptt_relax.neighbors import Graph, GraphSpec
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.conservative import conservative
from bptt_relax.systems import System

NUM_SPECIES = 94


class Config(NamedTuple):
    """Sizes and switches in which the published checkpoints differ.

    Attributes:
        cutoff: of edges, angstrom.
        bond_cutoff: of bonds, angstrom.
        num_radial: radial basis functions, for each of the two cutoffs.
        num_angular: angular basis functions, odd.
        envelope_power: p of the polynomial envelope.
        num_updates: atom updates; there is one bond and one angle update fewer.
        features: width of every hidden feature.
        readout_layers: hidden layers of the readout.
        layer_norm: normalize inside gated layers and before the readout.
        output_bias: bias on the sum of messages.
    """

    cutoff: float = 6.0
    bond_cutoff: float = 3.0
    num_radial: int = 31
    num_angular: int = 31
    envelope_power: int = 8
    num_updates: int = 4
    features: int = 64
    readout_layers: int = 3
    layer_norm: bool = True
    output_bias: bool = False


PUBLISHED = Config()
"""Settings of versions 0.3.0 and r2SCAN."""


def silu(x: Array) -> Array:
    """The input times its logistic function, through tanh: on CPU half the price of an exponential and a division."""
    return x * sigmoid(x)


def sigmoid(x: Array) -> Array:
    """Logistic function."""
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)


class GatedLayers(nn.Module):
    """Core and gate of a gated perceptron, after their first linear layer.

    Attributes:
        features: width of core and of gate.
        layer_norm: normalize before the activations.
        hidden: whether a second linear layer follows the first.
    """

    features: int
    layer_norm: bool
    hidden: bool

    @nn.compact
    def __call__(self, core: Array, gate: Array) -> Array:
        """Gated output (M, F) from the pre-activations (M, F) of core and gate."""
        core, gate = self._half("core", core), self._half("gate", gate)
        return silu(core) * sigmoid(gate)

    def _half(self, name: str, x: Array) -> Array:
        F = self.features
        if self.hidden:
            kernel = self.param(f"{name}_kernel", nn.initializers.lecun_normal(), (F, F))
            bias = self.param(f"{name}_bias", nn.initializers.zeros, (F,))
            if self.layer_norm:
                # The mean over features is linear: taken out of the weights it costs nothing per message.
                kernel = kernel - jnp.mean(kernel, axis=1, keepdims=True)
                bias = bias - jnp.mean(bias)
            x = silu(x) @ kernel + bias
        elif self.layer_norm:
            x = x - jnp.mean(x, axis=1, keepdims=True)
        if self.layer_norm:
            scale = self.param(f"{name}_scale", nn.initializers.ones, (F,))
            shift = self.param(f"{name}_shift", nn.initializers.zeros, (F,))
            x = x * lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + 1e-5) * scale + shift
        return x


def halves(kernel: Array) -> tuple[Array, Array]:
    """Core and gate part of weights that store them side by side."""
    width = kernel.shape[-1] // 2
    return kernel[..., :width], kernel[..., width:]


class AtomUpdate(nn.Module):
    """Messages along edges to their center."""

    config: Config

    @nn.compact
    def __call__(
        self, atoms: Array, basis: Array, embedding: Array, bonds: "Bonds", weights: Array, graph: Graph
    ) -> Array:
        """New atom features.

        Args:
            atoms: (N, F).
            basis: (E, K) radial basis of every edge.
            embedding: (K, F), what turns the basis into the initial edge features.
            bonds: how far bonds have moved from their initial features.
            weights: (E, F) radial weight of each message, zero where padded and at the cutoff.
            graph: the neighbors.
        """
        F = self.config.features
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3 * F, 2 * F))
        bias = self.param("bias", nn.initializers.zeros, (2 * F,))
        change = jnp.where(graph.bond_mask[:, None], bonds.change, 0.0)

        def first_layer(kernel: Array, bias: Array) -> Array:
            center = atoms @ kernel[:F] + (bonds.offset @ kernel[F : 2 * F] + bias)
            neighbor = atoms @ kernel[2 * F :]
            x = center[graph.centers] + neighbor[graph.neighbors] + basis @ (embedding @ kernel[F : 2 * F])
            return x.at[graph.bonds].add(change @ kernel[F : 2 * F])

        core, gate = map(first_layer, halves(kernel), halves(bias))
        messages = GatedLayers(F, self.config.layer_norm, True, name="gated")(core, gate) * weights
        total = jax.ops.segment_sum(messages, graph.centers, atoms.shape[0], indices_are_sorted=True)
        return atoms + nn.Dense(F, use_bias=self.config.output_bias, name="out")(total)


class Bonds(NamedTuple):
    """Learned change of the edge features since their embedding.

    Attributes:
        change: (B, F), of each bond.
        offset: (F,), common to bonds and all other edges. Only output biases make it differ from zero.
    """

    change: Array
    offset: Array


class BondUpdate(nn.Module):
    """Messages along angles to their first bond."""

    config: Config

    @nn.compact
    def __call__(self, atoms: Array, bonds: Array, angles: Array, weights: Array, graph: Graph) -> Bonds:
        """Change of the bond features; zero where a bond has no angles.

        Args:
            atoms: (N, F).
            bonds: (B, F).
            angles: (A, F).
            weights: (B, F) radial weights, zero where padded and at the bond cutoff.
            graph: the neighbors.
        """
        F = self.config.features
        first, second = graph.angles[:, 0], graph.angles[:, 1]
        core, gate = AngleInput(F, name="input")(atoms, bonds, angles, graph)
        messages = GatedLayers(F, self.config.layer_norm, True, name="gated")(core, gate)
        messages = jnp.where(graph.angle_mask[:, None], messages * weights[second], 0.0)
        total = jax.ops.segment_sum(messages, first, bonds.shape[0], indices_are_sorted=True) * weights
        change = nn.Dense(F, use_bias=False, name="out")(total + total[graph.bond_reverse])
        offset = jnp.zeros((F,), change.dtype)
        if self.config.output_bias:
            # As published: the bias reaches every edge, bond or not, once the structure has any angle.
            offset = self.param("bias", nn.initializers.zeros, (F,))
            offset = jnp.where(jnp.any(graph.angle_mask), offset, 0.0)
        return Bonds(change, offset)


class AngleUpdate(nn.Module):
    """New angle features from the two bonds and the atom between them."""

    config: Config

    @nn.compact
    def __call__(self, atoms: Array, bonds: Array, angles: Array, graph: Graph) -> Array:
        """New angle features.

        Args:
            atoms: (N, F).
            bonds: (B, F).
            angles: (A, F).
            graph: the neighbors.
        """
        F = self.config.features
        core, gate = AngleInput(F, name="input")(atoms, bonds, angles, graph)
        return angles + GatedLayers(F, self.config.layer_norm, False, name="gated")(core, gate)


class AngleInput(nn.Module):
    """First linear layer of a gated perceptron on (first bond, second bond, angle, center atom)."""

    features: int

    @nn.compact
    def __call__(self, atoms: Array, bonds: Array, angles: Array, graph: Graph) -> tuple[Array, Array]:
        """Pre-activations (A, F) of core and gate from atoms (N, F), bonds (B, F) and angles (A, F)."""
        F = self.features
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4 * F, 2 * F))
        bias = self.param("bias", nn.initializers.zeros, (2 * F,))
        centers = graph.centers[graph.bonds]

        def first_layer(kernel: Array, bias: Array) -> Array:
            # Both bonds share the center atom, so its part can ride on the first bond.
            first = bonds @ kernel[:F] + (atoms @ kernel[3 * F :] + bias)[centers]
            second = bonds @ kernel[F : 2 * F]
            return first[graph.angles[:, 0]] + second[graph.angles[:, 1]] + angles @ kernel[2 * F : 3 * F]

        core, gate = map(first_layer, halves(kernel), halves(bias))
        return core, gate


class CHGNet(nn.Module):
    """Total energy of one structure from its edge vectors."""

    config: Config

    @nn.compact
    def __call__(self, vectors: Array, species: Array, atom_mask: Array, graph: Graph) -> Energy:
        """Total energy.

        Args:
            vectors: (E, 3) angstrom, constant where padded.
            species: (N,) atomic numbers, 0 where padded.
            atom_mask: (N,) bool.
            graph: edges, bonds and angles.

        Returns:
            () eV.
        """
        c, F = self.config, self.config.features
        bias_free = {"features": F, "use_bias": False}
        lengths = jnp.sqrt(jnp.sum(vectors * vectors, axis=-1))
        directions = (vectors / lengths[:, None])[graph.bonds]

        edge_basis = RadialBasis(c.num_radial, c.cutoff, c.envelope_power, name="edge_basis")(lengths)
        edge_basis = jnp.where(graph.mask[:, None], edge_basis, 0.0)
        bond_basis = RadialBasis(c.num_radial, c.bond_cutoff, c.envelope_power, name="bond_basis")(
            lengths[graph.bonds]
        )
        bond_basis = jnp.where(graph.bond_mask[:, None], bond_basis, 0.0)
        cosines = jnp.sum(directions[graph.angles[:, 0]] * directions[graph.angles[:, 1]], axis=-1)
        angle_basis = AngularBasis(c.num_angular, name="angle_basis")(
            jnp.where(graph.angle_mask, cosines, 0.0)
        )

        index = jnp.clip(species - 1, 0, NUM_SPECIES - 1)
        atoms = self.param("species", nn.initializers.normal(), (NUM_SPECIES, F))[index]
        embedding = self.param("edge_embedding", nn.initializers.lecun_normal(), (c.num_radial, F))
        edge_weights = nn.Dense(name="edge_weight", **bias_free)(edge_basis)
        bond_weights = nn.Dense(name="bond_weight", **bias_free)(bond_basis)
        angles = nn.Dense(name="angle_embedding", **bias_free)(angle_basis)

        initial = edge_basis[graph.bonds] @ embedding
        bonds = Bonds(jnp.zeros_like(initial), jnp.zeros((F,), initial.dtype))
        for i in range(c.num_updates):
            atoms = AtomUpdate(c, name=f"atom_update_{i}")(
                atoms, edge_basis, embedding, bonds, edge_weights, graph
            )
            if i == c.num_updates - 1:
                break
            features = initial + bonds.change + bonds.offset
            step = BondUpdate(c, name=f"bond_update_{i}")(atoms, features, angles, bond_weights, graph)
            bonds = jax.tree.map(jnp.add, bonds, step)
            features = initial + bonds.change + bonds.offset
            angles = AngleUpdate(c, name=f"angle_update_{i}")(atoms, features, angles, graph)

        MagneticMoments(name="magnetic_moments")(F)
        if c.layer_norm:
            atoms = nn.LayerNorm(1e-5, name="readout_norm", use_fast_variance=False)(atoms)
        for i in range(c.readout_layers):
            atoms = silu(nn.Dense(F, name=f"readout_{i}")(atoms))
        energies = nn.Dense(1, name="readout_out")(atoms)[:, 0]
        energies += self.param("reference_energies", nn.initializers.zeros, (NUM_SPECIES,))[index]
        return jnp.sum(jnp.where(atom_mask, energies, 0.0))


class MagneticMoments(nn.Module):
    """Readout of magnetic moments: no energy depends on it, it is kept so that a checkpoint stays complete."""

    @nn.compact
    def __call__(self, features: int) -> None:
        """Declare the parameters."""
        self.param("kernel", nn.initializers.lecun_normal(), (features, 1))
        self.param("bias", nn.initializers.zeros, (1,))


class RadialBasis(nn.Module):
    """Bessel functions with learnable frequencies under a polynomial envelope.

    Gasteiger, Groß and Günnemann, Directional Message Passing for Molecular Graphs, ICLR 2020, arXiv:2003.03123.
    """

    size: int
    cutoff: float
    power: int

    @nn.compact
    def __call__(self, lengths: Array) -> Array:
        """Basis (M, size) at lengths (M,) in angstrom, zero from the cutoff on."""
        start = jnp.pi * jnp.arange(1, self.size + 1, dtype=lengths.dtype)
        frequencies = self.param("frequencies", lambda key: start)
        x, p = lengths / self.cutoff, self.power
        inside = x < 1
        x = jnp.where(inside, x, 0.5)
        envelope = 1 - x**p * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x)
        scale = jnp.where(inside, envelope * (2 / self.cutoff) ** 0.5 / (x * self.cutoff), 0.0)
        return scale[:, None] * jnp.sin(x[:, None] * frequencies)


class AngularBasis(nn.Module):
    """Fourier series of an angle with learnable frequencies."""

    size: int

    @nn.compact
    def __call__(self, cosines: Array) -> Array:
        """Basis (A, size) at the cosines (A,) of angles."""
        start = jnp.arange(1, (self.size - 1) // 2 + 1, dtype=cosines.dtype)
        frequencies = self.param("frequencies", lambda key: start)
        # The factor keeps the slope of arccos finite for straight angles; the published weights know it.
        phases = jnp.arccos(cosines * (1 - 1e-6))[:, None] * frequencies
        constant = jnp.full((cosines.shape[0], 1), 2**-0.5, cosines.dtype)
        return jnp.concatenate([constant, jnp.sin(phases), jnp.cos(phases)], axis=1) * jnp.pi**-0.5


def build(config: Config = PUBLISHED, *, elements: tuple[int, ...] = (), name: str = "chgnet") -> Potential:
    """CHGNet with random starting parameters; pretrained ones come from `pretrained.load`.

    Args:
        config: sizes and switches.
        elements: atomic numbers its weights cover; empty for any up to 94.
        name: for messages and results.
    """
    module = CHGNet(config)

    def init(key) -> Params:
        with jax.numpy_rank_promotion("allow"):
            return module.init(key, *_smallest_input())["params"]

    def energy(params: Params, vectors: Array, system: System, graph: Graph) -> Energy:
        # Weights of one row per feature meet features of many rows everywhere in here, on purpose.
        with jax.numpy_rank_promotion("allow"):
            return cast(Energy, module.apply({"params": params}, vectors, system.species, system.mask, graph))

    spec = GraphSpec(config.cutoff, config.bond_cutoff)
    return conservative(energy, init, spec, elements=elements, name=name)


def _smallest_input() -> tuple[Array, Array, Array, Graph]:
    """Two atoms and one edge: enough for the shapes of the parameters, which no size of a structure enters."""
    index, yes = jnp.zeros((1,), jnp.int32), jnp.ones((1,), bool)
    graph = Graph(
        centers=index,
        neighbors=index,
        images=jnp.zeros((1, 3)),
        reverse=index,
        mask=yes,
        bonds=index,
        bond_reverse=index,
        bond_mask=yes,
        angles=jnp.zeros((1, 2), jnp.int32),
        angle_mask=yes,
        overflow=jnp.asarray(False),
    )
    return jnp.ones((1, 3)), index + 1, yes, graph
