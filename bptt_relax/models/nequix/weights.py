"""Published Nequix files: their layout and settings on one side, our parameters on the other.

A file is one line of JSON and then arrays in numpy's own format, in the order of the nequix package's modules and
without names. Stored weights get that package's names, so that a fine-tuned model goes back to where it came from.
"""

import io
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Params
from bptt_relax.equivariant import paths
from bptt_relax.models._contract import Family, Original
from bptt_relax.models.nequix import network
from bptt_relax.models.nequix.network import Config
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential
from bptt_relax.weights.published import Published
from bptt_relax.weights.registry import Model
from bptt_relax.weights.weights_file import Weights

MAX_HEADER_BYTES = 1 << 20

Arrays = dict[str, np.ndarray]

_FIXED = {"index_weights": False, "layer_norm": True}
"""Settings that every published model shares and that the module takes for granted."""


def read_config(arguments: Mapping[str, Any], origin: str) -> Config:
    """Sizes and constants from the settings of a file.

    Raises:
        InputError: a setting this implementation doesn't have.
    """
    for key, value in _FIXED.items():
        if arguments.get(key) is not value:
            raise InputError(f"{origin} has {key}={arguments.get(key)!r}; only {value!r} is implemented")
    try:
        return Config(
            species=tuple(int(z) for z in arguments["atomic_numbers"]),
            channels=_channels(str(arguments["hidden_irreps"])),
            max_harmonic=int(arguments["lmax"]),
            num_layers=int(arguments["n_layers"]),
            cutoff=float(arguments["cutoff"]),
            num_radial=int(arguments["radial_basis_size"]),
            envelope_power=float(arguments["radial_polynomial_p"]),
            radial_width=int(arguments["radial_mlp_size"]),
            radial_layers=int(arguments["radial_mlp_layers"]),
            num_neighbors=float(arguments["avg_n_neighbors"]),
            scale=float(arguments["scale"]),
            shift=float(arguments["shift"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{origin} has no usable settings of a Nequix model ({error}): fetch it again"
        ) from error


def _channels(irreps: str) -> tuple[int, ...]:
    """Channels of each degree from, say, ``128x0e + 64x1o``."""
    terms = [term.strip().split("x") for term in irreps.split("+")]
    wanted = [f"{degree}{'eo'[degree % 2]}" for degree in range(len(terms))]
    if [kind for _, kind in terms] != wanted:
        raise ValueError(f"hidden_irreps {irreps!r} are not {', '.join(wanted)}, each once and in this order")
    return tuple(int(count) for count, _ in terms)


def _layout(config: Config) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Published name -> our parameter path and the shape, in the order of the file."""
    c, num_species = config, len(config.species)
    layout: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "atom_energies": (("reference_energies",), (num_species,))
    }

    def add(name: str, path: tuple[str, ...], *shape: int) -> None:
        layout[name] = (path, shape)

    inputs = (num_species,)
    for k in range(c.num_layers):
        scalars, *others = c.channels if k < c.num_layers - 1 else c.channels[:1]
        outputs = (scalars + sum(others), *others)
        ways = paths(len(inputs), c.max_harmonic, len(others))
        sums = [sum(inputs[first] for first, _ in way) for way in ways]
        widths = [c.num_radial, *[c.radial_width] * c.radial_layers, sum(sums)]
        ours, theirs = f"layer_{k}", f"layers.{k}"
        for i, shape in enumerate(itertools.pairwise(widths)):
            leaf = "radial_out" if i == c.radial_layers else f"radial_{i}"
            add(f"{theirs}.radial_mlp.layers.{i}.weights", (ours, "convolution", leaf), *shape)
        for d, size in enumerate(inputs):
            add(f"{theirs}.linear_1.{d}", (ours, "convolution", "linear", f"degree_{d}"), size, size)
        for d, (size, output) in enumerate(zip(sums, outputs, strict=True)):
            add(f"{theirs}.linear_2.{d}", (ours, "linear", f"degree_{d}"), size, output)
        for d, (size, output) in enumerate(zip(inputs, outputs, strict=False)):
            add(f"{theirs}.skip.{d}", (ours, "skip", f"degree_{d}"), size, output)
        for d, output in enumerate(outputs):
            add(f"{theirs}.layer_norm.affine_weight.{d}", (ours, "norm", f"degree_{d}"), output)
        inputs = (scalars, *others)
    add("readout.0", ("readout", "degree_0"), inputs[0], 1)
    return layout


def read(data: bytes, origin: str) -> tuple[dict[str, Any], Arrays]:
    """Settings and arrays of a .nqx file; nothing in it is run.

    Args:
        data: the whole file.
        origin: what messages call it.

    Raises:
        InputError: not such a file, cut off, or of a model this implementation doesn't have.
    """
    end = data.find(b"\n", 0, MAX_HEADER_BYTES)
    try:
        arguments = json.loads(data[:end]) if end > 0 else None
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InputError(
            f"{origin} does not start with a line of JSON, so it is no .nqx file: check the path"
        )
    config = read_config(arguments, origin)
    stream = io.BytesIO(data)
    stream.seek(end + 1)
    arrays: Arrays = {}
    for name, (_, shape) in _layout(config).items():
        try:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{origin} is cut off or broken at {name} ({error}): fetch it again") from error
        if array.shape != shape or array.dtype != np.float32:
            raise InputError(
                f"{origin}: {name} is {array.dtype} {array.shape}, not float32 {shape}: fetch it again"
            )
        arrays[name] = array
    # What may follow are constants that older versions of the package stored twice.
    return arguments, arrays


def write(arguments: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A .nqx file that the nequix package loads: the inverse of `read`.

    Args:
        arguments: settings.
        arrays: published name -> array.
    """
    stream = io.BytesIO()
    stream.write(json.dumps(arguments).encode() + b"\n")
    for name in _layout(read_config(arguments, "these weights")):
        np.lib.format.write_array(stream, np.ascontiguousarray(arrays[name], np.float32), allow_pickle=False)
    return stream.getvalue()


def from_published(arrays: Mapping[str, np.ndarray], config: Config, origin: str) -> Params:
    """Parameters of `network.Nequix` from published weights, in JAX's default float type.

    Raises:
        InputError: a missing array, or a value that isn't finite.
    """
    params: Params = {}
    for name, (path, shape) in _layout(config).items():
        if name not in arrays or arrays[name].shape != shape:
            raise InputError(f"{origin} lacks {name} of shape {shape}: not weights of this Nequix?")
        if not np.all(np.isfinite(arrays[name])):
            raise InputError(f"{origin}: {name} holds NaN or infinite values")
        branch = params
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = jnp.asarray(arrays[name], dtype=float)
    return params


def to_published(params: Params, config: Config) -> Arrays:
    """Weights under their published names, float32: the inverse of `from_published`."""
    arrays: Arrays = {}
    for name, (path, _) in _layout(config).items():
        value: Any = params
        for key in path:
            value = value[key]
        arrays[name] = np.asarray(value, np.float32)
    return arrays


def convert(published: Published, model: Model) -> Weights:
    """The weights in a .nqx file.

    Raises:
        InputError: as `read`.
    """
    return Weights(model.name, *read(published.data, published.origin))


def build(weights: Weights, model: Model, origin: str) -> tuple[Potential, Params]:
    """The potential and its parameters.

    Raises:
        InputError: settings or arrays that no published file has.
    """
    config = read_config(weights.arguments, origin)
    params = from_published(weights.arrays, config, origin)
    return network.build(config, elements=model.elements, name=model.name), params


def unload(params: Params, weights: Weights) -> Weights:
    """The same weights with other parameters."""
    return weights._replace(arrays=to_published(params, read_config(weights.arguments, weights.model)))


def encode(weights: Weights) -> bytes:
    """A .nqx file that the nequix package loads."""
    return write(weights.arguments, weights.arrays)


FAMILY = Family(
    convert, build, unload, Original("nequix", ".nqx", encode, Path(__file__).with_name("ask_original.py"))
)
