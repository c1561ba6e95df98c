"""jax-md's NequIP, computed with the channels as the last axis.

The same function of the same parameters as `jax_md.nn.nequip.NequIPEnergyModel`, in another order of its sums. There
each edge is a small tensor product of its own, components last, and a CPU has little to vectorize; here all edges go
through each path of the product together, channels last.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from bptt_relax._types import Array, Params
from bptt_relax.equivariant import Features, convolution, gate, paths, silu, spherical_harmonics
from bptt_relax.neighbors import Graph
from bptt_relax.trees import safe_norm

SELF_CONNECTION = "FullyConnectedTensorProductE3nn_0"
"""What jax-md calls the part of a layer in which each element has weights of its own."""

FADE = 0.5
"""Messages fade over this distance before the cutoff, angstrom."""


def atom_energies(params: Params, config: Any, atoms: Array, vectors: Array, graph: Graph) -> Array:
    """Energy of each atom (N,), in units of the model's scale, without reference energies.

    Args:
        params: of jax-md's network.
        config: its sizes.
        atoms: (N, species) one-hot, zero where padded.
        vectors: (E, 3) from center to neighbor, longer than the cutoff where padded.
        graph: the edges.
    """
    lengths = safe_norm(vectors)
    # jax-md's arrows point from neighbor to center.
    harmonics = spherical_harmonics(-vectors / lengths[:, None], config.max_harmonic)
    basis = radial_basis(lengths, params["BesselEmbedding_0"]["frequencies"], config.cutoff)
    scalars = mix(params["Linear_0"], [atoms[:, None, :]], "w[0,0]")
    features: Features = [scalars]
    for k in range(config.num_layers):
        layer = params[f"NequIPConvolution_{k}"]
        channels = config.channels if k < config.num_layers - 1 else config.channels[:1]
        features = convolve(layer, config, channels, features, atoms, harmonics, basis, graph)
    energies = mix(params["Linear_2"], [mix(params["Linear_1"], features, "w[0,0]")], "w[0,0]")
    return energies[:, 0, 0]


def radial_basis(lengths: Array, frequencies: Array, cutoff: float) -> Array:
    """Bessel functions (E, size) that fade out before the cutoff."""
    onset = cutoff - FADE
    lengths = lengths[:, None]
    inside = lengths < cutoff
    r = jnp.where(inside, lengths, 0.5 * cutoff)
    bessel = 2 / cutoff * jnp.sin(frequencies * r / cutoff) / r
    fading = (cutoff**2 - r**2) ** 2 * (cutoff**2 + 2 * r**2 - 3 * onset**2) / (cutoff**2 - onset**2) ** 3
    return bessel * jnp.where(inside, jnp.where(r < onset, 1.0, fading), 0.0)


def convolve(
    layer: Mapping[str, Any],
    config: Any,
    channels: tuple[int, ...],
    features: Features,
    atoms: Array,
    harmonics: Features,
    basis: Array,
    graph: Graph,
) -> list[Array]:
    """One round of messages: new features of atoms."""
    own = [  # of the center alone, with weights of its species
        jnp.einsum("niu,ns,usw->niw", x, atoms, named(layer[SELF_CONNECTION], f"w[{k},0,{k}]"))
        / (x.shape[-1] * atoms.shape[-1]) ** 0.5
        for k, x in enumerate(features)
    ]
    mixed = [mix(layer["Linear_0"], features, f"w[{k},{k}]", k) for k in range(len(features))]
    radial = basis
    kernels = [layer["MLP_0"][f"Dense_{k}"]["kernel"] for k in range(config.radial_layers + 1)]
    for kernel in kernels[:-1]:
        radial = silu(radial @ kernel)
    columns = slices(config)
    ways = paths(len(features), config.max_harmonic, len(channels) - 1)
    of_paths = (
        kernels[-1][:, columns[first, second, result]]
        for result, way in enumerate(ways)
        for first, second in way
    )
    sums = [
        total / config.num_neighbors for total in convolution(mixed, harmonics, radial, of_paths, ways, graph)
    ]
    degrees = len(config.channels)
    # First the scalars that stay, then those that gate: a block of weights for each, and each degree has one.
    blocks = [
        [0, *(range(1, degrees) if len(channels) > 1 else ())],
        *([k] for k in range(degrees, 2 * degrees - 1)),
    ]
    new = []
    for k in range(len(sums)):
        parts = [mix(layer["Linear_1"], sums, f"w[{k},{block}]", k) for block in blocks[k]]
        whole = jnp.concatenate(parts, axis=-1)
        if k < len(own):
            whole = whole + own[k][..., : whole.shape[-1]]
        new.append(whole)
    return gate(new)


def slices(config: Any) -> dict[tuple[int, int, int], slice]:
    """Columns of the radial network's output that belong to each path of the product."""
    found, start = {}, 0
    degrees = len(config.channels)
    for first in range(degrees):
        for second in range(config.max_harmonic + 1):
            for result in range(abs(first - second), min(first + second, degrees - 1) + 1):
                if (first + second + result) % 2 == 0:
                    found[first, second, result] = slice(start, start + config.channels[first])
                    start += config.channels[first]
    return found


def mix(weights: Mapping[str, Array], features: Features, name: str, degree: int = 0) -> Array:
    """Mixed channels of one degree (N, 2l + 1, channels)."""
    x = features[degree]
    return x @ (named(weights, name) * x.shape[-1] ** -0.5)


def named(weights: Mapping[str, Array], start: str) -> Array:
    """The weights whose name starts like this; what follows there are sizes."""
    return next(value for name, value in weights.items() if name.startswith(start + " "))
