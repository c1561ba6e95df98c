"""Published SevenNet checkpoints: their names, settings and layout on one side, our parameters on the other.

Stored weights keep the published names and layout, so that a fine-tuned model goes back to where it came from. Names of
the oldest checkpoints are replaced by today's, as the sevenn package does when it loads them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Params
from bptt_relax.equivariant import coupling, paths
from bptt_relax.models._contract import Family, Original
from bptt_relax.models.sevennet import network
from bptt_relax.models.sevennet.network import Config
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential
from bptt_relax.weights import checkpoint_zip
from bptt_relax.weights.published import Published
from bptt_relax.weights.registry import Model
from bptt_relax.weights.weights_file import Weights

Arrays = dict[str, np.ndarray]

_FIXED = {
    "is_parity": False,
    "lmax_edge": -1,
    "lmax_node": -1,
    "act_radial": "silu",
    "act_scalar": {"e": "silu", "o": "tanh"},
    "act_gate": {"e": "silu", "o": "tanh"},
    "use_bias_in_linear": False,
    "readout_as_fcn": False,
    "self_connection_type": "linear",
}
"""Settings that every published checkpoint shares and that the module takes for granted."""

_MODAL = {
    "use_modal_node_embedding": False,
    "use_modal_self_inter_intro": True,
    "use_modal_self_inter_outro": True,
    "use_modal_output_block": True,
    "use_modal_wise_shift": True,
    "use_modal_wise_scale": False,
}
"""The same for those trained on several levels of theory."""

_KEPT = {
    *_FIXED,
    *_MODAL,
    *("version", "chemical_species", "_number_of_species", "_type_map", "irreps_manual", "channel", "lmax"),
    *("radial_basis", "cutoff_function", "cutoff", "num_convolution_layer", "weight_nn_hidden_neurons"),
    *(
        "conv_denominator",
        "train_denominator",
        "train_avg_num_neigh",
        "train_shift_scale",
        "optimize_by_reduce",
    ),
    *("interaction_type", "_normalize_sph", "shift", "scale", "readout_fcn_hidden_neurons"),
    *("readout_fcn_activation", "_model_type", "use_modality", "_number_of_modalities", "_modal_map"),
}
"""Settings of a model; others are of its training."""

_OLD_NAMES = (
    (r"^EdgeEmbedding\b", "edge_embedding"),
    (r"^(\d+) self connection intro\b", r"\1_self_connection_intro"),
    (r"^(\d+) convolution\b", r"\1_convolution"),
    (r"^(\d+) self interaction 2\b", r"\1_self_interaction_2"),
    (r"^(\d+) equivariant gate\b", r"\1_equivariant_gate"),
    (r"^reducing nn input to hidden\b", "reduce_input_to_hidden"),
    (r"^reducing nn hidden to energy\b", "reduce_hidden_to_energy"),
    (r"^rescale atomic energy\b", "rescale_atomic_energy"),
    (r"\bdenumerator$", "denominator"),
)


def read_config(
    arguments: Mapping[str, Any], arrays: Mapping[str, np.ndarray], modality: str, origin: str
) -> Config:
    """Sizes and constants from the settings and the constant arrays of a checkpoint.

    Args:
        arguments: its settings.
        arrays: published name -> array.
        modality: level of theory to predict, of those that the model was trained on; empty where that is one.
        origin: what messages call the file.

    Raises:
        InputError: a setting this implementation doesn't have, or no such modality.
    """
    modal = bool(arguments.get("use_modality", False))
    for key, value in (_FIXED | (_MODAL if modal else {})).items():
        if arguments.get(key, value) != value:
            raise InputError(f"{origin} has {key}={arguments[key]!r}; only {value!r} is implemented")
    try:
        known = {str(name): int(row) for name, row in arguments["_modal_map"].items()} if modal else {}
        if modal and modality not in known:
            raise InputError(f"{origin} knows {', '.join(known)}, not {modality!r}: choose one of them")
        by_row = sorted((int(row), int(z)) for z, row in arguments["_type_map"].items())
        scales = np.unique(arrays["rescale_atomic_energy.scale"])
        if scales.size != 1:
            raise InputError(f"{origin} scales energies by element, which is not implemented")
        fading = arguments["cutoff_function"]
        layers = int(arguments["num_convolution_layer"])
        return Config(
            species=tuple(z for _, z in by_row),
            channels=_channels(arguments["irreps_manual"]),
            max_harmonic=int(arguments["lmax"]),
            unit_vectors=bool(arguments.get("_normalize_sph", False)),
            cutoff=float(arguments["cutoff"]),
            onset=float(fading["cutoff_on"]) if fading["cutoff_function_name"] == "XPLOR" else 0.0,
            envelope_power=float(fading.get("poly_cut_p_value", 6)),
            num_radial=int(arguments["radial_basis"].get("bessel_basis_num", 8)),
            radial_widths=tuple(int(width) for width in arguments["weight_nn_hidden_neurons"]),
            denominators=tuple(float(arrays[f"{k}_convolution.denominator"][0]) for k in range(layers)),
            scale=float(scales[0]),
            modalities=len(known),
            modality=known.get(modality, 0),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{origin} has no usable settings of a SevenNet ({error}): fetch it again"
        ) from error


def _channels(irreps: list[str]) -> tuple[int, ...]:
    """Channels of each degree from, say, ``128x0e+64x1e``, the same in all layers but the first and the last."""
    first, *hidden, last = irreps
    terms = [term.strip().split("x") for term in hidden[0].split("+")]
    if [kind for _, kind in terms] != [f"{degree}e" for degree in range(len(terms))]:
        raise ValueError(f"irreps {hidden[0]!r} are not 0e, 1e, ... each once and in this order")
    channels = tuple(int(count) for count, _ in terms)
    if set(hidden) != {hidden[0]} or {first, last} != {f"{channels[0]}x0e"}:
        raise ValueError(f"irreps {irreps!r} differ from layer to layer")
    return channels


def _linears(config: Config) -> Iterator[tuple[str, tuple[str, ...], list[tuple[int, int]]]]:
    """Published name, our path and (inputs, outputs) of each degree, of everything that mixes channels."""
    c, more = config, config.modalities

    def with_modality(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(sizes[0][0] + more, sizes[0][1]), *sizes[1:]]

    yield "onehot_to_feature_x", ("embedding",), [(len(c.species), c.channels[0])]
    inputs = c.channels[:1]
    for k in range(c.num_layers):
        scalars, *others = c.outputs(k)
        widths = (scalars + sum(others), *others)
        sums = [
            sum(inputs[first] for first, _ in way)
            for way in paths(len(inputs), c.max_harmonic, len(others), parity=False)
        ]
        layer = f"layer_{k}"
        own = list(zip(inputs, widths, strict=False))
        yield f"{k}_self_connection_intro", (layer, "self_connection"), own
        yield f"{k}_self_interaction_1", (layer, "before"), with_modality([(n, n) for n in inputs])
        yield f"{k}_self_interaction_2", (layer, "after"), with_modality(list(zip(sums, widths, strict=True)))
        inputs = c.outputs(k)
    half = c.channels[0] // 2
    yield "reduce_input_to_hidden", ("hidden",), with_modality([(c.channels[0], half)])
    yield "reduce_hidden_to_energy", ("readout",), [(half, 1)]


def _split_linear(values: np.ndarray, sizes: list[tuple[int, int]], modalities: int) -> list[np.ndarray]:
    """Kernels of each degree from the published vector, in which rows of the modality come last of all."""
    own = [(n - modalities if degree == 0 else n, m) for degree, (n, m) in enumerate(sizes)]
    ends = np.cumsum([n * m for n, m in own])
    parts = np.split(values, ends)
    kernels = [part.reshape(size) for part, size in zip(parts[:-1], own, strict=True)]
    kernels[0] = np.concatenate([kernels[0], parts[-1].reshape(modalities, sizes[0][1])])
    return kernels


def _join_linear(kernels: list[np.ndarray], modalities: int) -> np.ndarray:
    """The inverse of `_split_linear`."""
    first = kernels[0]
    rest = first[len(first) - modalities :]
    return np.concatenate(
        [first[: len(first) - modalities].ravel(), *(k.ravel() for k in kernels[1:]), rest.ravel()]
    )


def _columns(config: Config, layer: int, arrays: Mapping[str, np.ndarray]) -> list[tuple[slice, float]]:
    """For each path in our order, its columns in the published radial network, and the sign of its coefficients.

    Published columns go by degree of the feature, of the harmonic, of the product; coefficients of some products were
    taken with the other sign, as the checkpoint shows.
    """
    inputs = config.channels[:1] if layer == 0 else config.channels
    ways = paths(len(inputs), config.max_harmonic, len(config.outputs(layer)) - 1, parity=False)
    published = sorted((*pair, result) for result, way in enumerate(ways) for pair in way)
    starts = dict(zip(published, np.cumsum([0, *(inputs[first] for first, _, _ in published)]), strict=False))
    found = []
    for result, way in enumerate(ways):
        for first, second in way:
            start = int(starts[first, second, result])
            theirs = arrays.get(
                f"{layer}_convolution.convolution._compiled_main_left_right._w3j_{first}_{second}_{result}"
            )
            agree = theirs is None or np.sum(theirs * coupling(first, second, result)) > 0
            found.append((slice(start, start + inputs[first]), 1.0 if agree else -1.0))
    return found


def _radials(config: Config) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    """Published name, our path and shape of the layers of the radial networks but their last."""
    yield "edge_embedding.basis_function.coeffs", ("frequencies",), (config.num_radial,)
    for k in range(config.num_layers):
        widths = (config.num_radial, *config.radial_widths)
        for i in range(len(config.radial_widths)):
            shape = (widths[i], widths[i + 1])
            yield f"{k}_convolution.weight_nn.layer{i}.weight", (f"layer_{k}", f"radial_{i}"), shape


def from_published(arrays: Mapping[str, np.ndarray], config: Config, origin: str) -> Params:
    """Parameters of `network.SevenNet` from published weights, in JAX's default float type.

    Raises:
        InputError: a missing array, one of another shape, or a value that isn't finite.
    """
    params: Params = {}

    def take(name: str, *shape: int) -> np.ndarray:
        if name not in arrays or arrays[name].shape != shape:
            raise InputError(f"{origin} lacks {name} of shape {shape}: not weights of this SevenNet?")
        if not np.all(np.isfinite(arrays[name])):
            raise InputError(f"{origin}: {name} holds NaN or infinite values")
        return arrays[name]

    def put(path: tuple[str, ...], values: np.ndarray) -> None:
        branch = params
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = jnp.asarray(values, dtype=float)

    for name, path, sizes in _linears(config):
        values = take(f"{name}.linear.weight", sum(n * m for n, m in sizes))
        for degree, kernel in enumerate(_split_linear(values, sizes, _modal_rows(name, config))):
            put((*path, f"degree_{degree}"), kernel)
    for name, path, shape in _radials(config):
        put(path, take(name, *shape))
    for k in range(config.num_layers):
        columns = _columns(config, k, arrays)
        width = sum(part.stop - part.start for part, _ in columns)
        values = take(_last_radial(config, k), config.radial_widths[-1], width)
        put(
            (f"layer_{k}", "radial_out"), np.concatenate([s * values[:, part] for part, s in columns], axis=1)
        )
    table = (len(config.species),)
    modal = (config.modalities, *table) if config.modalities else table
    shifts = take("rescale_atomic_energy.shift", *modal)
    put(("reference_energies",), shifts.reshape(-1, *table))
    return params


def to_published(params: Params, config: Config, like: Mapping[str, np.ndarray]) -> Arrays:
    """Weights under their published names, float32: the inverse of `from_published`.

    Args:
        params: of `network.SevenNet`.
        config: its sizes.
        like: the published arrays; constants are taken from there.
    """
    arrays = dict(like)

    def get(*path: str) -> np.ndarray:
        value: Any = params
        for key in path:
            value = value[key]
        return np.asarray(value, np.float32)

    for name, path, sizes in _linears(config):
        kernels = [get(*path, f"degree_{degree}") for degree in range(len(sizes))]
        arrays[f"{name}.linear.weight"] = _join_linear(kernels, _modal_rows(name, config))
    for name, path, _ in _radials(config):
        arrays[name] = get(*path)
    for k in range(config.num_layers):
        ours, start = get(f"layer_{k}", "radial_out"), 0
        values = np.empty_like(ours)
        for part, sign in _columns(config, k, like):
            size = part.stop - part.start
            values[:, part] = sign * ours[:, start : start + size]
            start += size
        arrays[_last_radial(config, k)] = values
    shifts = get("reference_energies")
    arrays["rescale_atomic_energy.shift"] = shifts if config.modalities else shifts[0]
    return arrays


def _modal_rows(name: str, config: Config) -> int:
    """Rows that a published layer has for the modalities."""
    modal = name == "reduce_input_to_hidden" or "_self_interaction_" in name
    return config.modalities if modal else 0


def _last_radial(config: Config, layer: int) -> str:
    return f"{layer}_convolution.weight_nn.layer{len(config.radial_widths)}.weight"


def convert(published: Published, model: Model) -> Weights:
    """The weights in a checkpoint; nothing in it is run.

    Raises:
        InputError: no checkpoint of a SevenNet.
    """
    content = checkpoint_zip.read(published.data, published.origin)
    try:
        settings, state = content["config"], content["model_state_dict"]
        kept = {key: _plain(settings[key]) for key in settings if key in _KEPT}
        arguments = json.loads(json.dumps(kept))
        arrays = {_today(name): np.asarray(array, np.float32) for name, array in state.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{published.origin} is not a SevenNet checkpoint (no {error}): check the path"
        ) from error
    return Weights(model.name, arguments, arrays)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _today(name: str) -> str:
    for old, new in _OLD_NAMES:
        name = re.sub(old, new, name)
    return name


def build(weights: Weights, model: Model, origin: str) -> tuple[Potential, Params]:
    """The potential and its parameters.

    Raises:
        InputError: settings or arrays that no published checkpoint has.
    """
    config = read_config(weights.arguments, weights.arrays, model.modality, origin)
    params = from_published(weights.arrays, config, origin)
    return network.build(config, elements=model.elements, name=model.name), params


def unload(params: Params, weights: Weights) -> Weights:
    """The same weights with other parameters."""
    # Any modality: the parameters are those of all.
    modality = next(iter(weights.arguments.get("_modal_map", {})), "")
    config = read_config(weights.arguments, weights.arrays, modality, weights.model)
    return weights._replace(arrays=to_published(params, config, weights.arrays))


def encode(weights: Weights) -> bytes:
    """A checkpoint that the sevenn package loads."""
    settings = dict(weights.arguments)
    settings["_type_map"] = {int(z): row for z, row in settings["_type_map"].items()}
    arrays = dict(sorted(weights.arrays.items()))
    return checkpoint_zip.write({"model_state_dict": arrays, "config": settings})


FAMILY = Family(
    convert, build, unload, Original("sevenn", ".pth", encode, Path(__file__).with_name("ask_original.py"))
)
