"""Published CHGNet checkpoints: their names and settings on one side, our parameters on the other.

Stored weights keep the published names and layout, so that a change of our own layout never touches a file and a
fine-tuned model goes back to where it came from.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bptt_relax._types import Params
from bptt_relax.models._contract import Family, Original
from bptt_relax.models.chgnet import network
from bptt_relax.models.chgnet.network import Config
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential
from bptt_relax.weights import checkpoint_zip
from bptt_relax.weights.published import Published
from bptt_relax.weights.registry import Model
from bptt_relax.weights.weights_file import Weights

Arrays = dict[str, np.ndarray]

_FIXED = {
    "update_bond": True,
    "update_angle": True,
    "mlp_first": True,
    "learnable_rbf": True,
    "atom_fea_dim": 64,
    "bond_fea_dim": 64,
    "angle_fea_dim": 64,
    "atom_conv_hidden_dim": 64,
    "bond_conv_hidden_dim": 64,
    "angle_layer_hidden_dim": 0,
    "non_linearity": "silu",
    "conv_norm": None,
    "final_mlp": "MLP",
}
"""Settings that every published checkpoint shares and that the module takes for granted."""


def read_config(arguments: Mapping[str, Any], arrays: Mapping[str, np.ndarray], origin: str) -> Config:
    """Sizes and switches from a checkpoint's ``model_args``.

    Args:
        arguments: as stored in the checkpoint.
        arrays: its weights; they tell whether sums of messages have a bias, which the arguments don't.
        origin: what messages call the file.

    Raises:
        InputError: a setting this implementation doesn't have.
    """
    for key, value in _FIXED.items():
        if arguments.get(key, value) != value:
            raise InputError(f"{origin} has {key}={arguments[key]!r}; only {value!r} is implemented")
    norms = arguments.get("gMLP_norm"), arguments.get("readout_norm")
    if norms not in ((None, None), ("layer", "layer")):
        raise InputError(
            f"{origin} has gMLP_norm, readout_norm = {norms}; only both 'layer' or neither is implemented"
        )
    hidden = tuple(arguments["mlp_hidden_dims"])
    if set(hidden) != {64}:
        raise InputError(f"{origin} has mlp_hidden_dims={hidden}; only layers of 64 are implemented")
    return Config(
        cutoff=float(arguments["atom_graph_cutoff"]),
        bond_cutoff=float(arguments["bond_graph_cutoff"]),
        num_radial=int(arguments["num_radial"]),
        num_angular=int(arguments["num_angular"]),
        envelope_power=int(arguments["cutoff_coeff"]),
        num_updates=int(arguments["n_conv"]),
        readout_layers=len(hidden),
        layer_norm=norms[0] == "layer",
        output_bias="atom_conv_layers.0.mlp_out.layers.1.bias" in arrays,
    )


def _table(config: Config) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Our parameter path -> published names; two names stand side by side in one of our arrays."""
    table: dict[tuple[str, ...], tuple[str, ...]] = {
        ("species",): ("atom_embedding.embedding.weight",),
        ("reference_energies",): ("composition_model.fc.weight",),
        ("edge_basis", "frequencies"): ("bond_basis_expansion.rbf_expansion_ag.frequencies",),
        ("bond_basis", "frequencies"): ("bond_basis_expansion.rbf_expansion_bg.frequencies",),
        ("angle_basis", "frequencies"): ("angle_basis_expansion.fourier_expansion.frequencies",),
        ("edge_embedding",): ("bond_embedding.weight",),
        ("edge_weight", "kernel"): ("bond_weights_ag.weight",),
        ("bond_weight", "kernel"): ("bond_weights_bg.weight",),
        ("angle_embedding", "kernel"): ("angle_embedding.weight",),
        ("magnetic_moments", "kernel"): ("site_wise.weight",),
        ("magnetic_moments", "bias"): ("site_wise.bias",),
    }

    def gated(path: tuple[str, ...], first: tuple[str, ...], name: str, hidden: bool) -> None:
        halves = ("core", "gate")
        for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
            layer = 0 if hidden else 1
            table[(*first, ours)] = tuple(f"{name}.mlp_{half}.layers.{layer}.{theirs}" for half in halves)
            if hidden:
                for half in halves:
                    table[(*path, "gated", f"{half}_{ours}")] = (f"{name}.mlp_{half}.layers.3.{theirs}",)
        if config.layer_norm:
            for half, norm in zip(halves, ("bn1", "bn2"), strict=True):
                table[(*path, "gated", f"{half}_scale")] = (f"{name}.{norm}.weight",)
                table[(*path, "gated", f"{half}_shift")] = (f"{name}.{norm}.bias",)

    for k in range(config.num_updates):
        path, name = (f"atom_update_{k}",), f"atom_conv_layers.{k}"
        gated(path, path, f"{name}.twoBody_atom", hidden=True)
        table[(*path, "out", "kernel")] = (f"{name}.mlp_out.layers.1.weight",)
        if config.output_bias:
            table[(*path, "out", "bias")] = (f"{name}.mlp_out.layers.1.bias",)
    for k in range(config.num_updates - 1):
        path, name = (f"bond_update_{k}",), f"bond_conv_layers.{k}"
        gated(path, (*path, "input"), f"{name}.twoBody_bond", hidden=True)
        table[(*path, "out", "kernel")] = (f"{name}.mlp_out.layers.1.weight",)
        if config.output_bias:
            table[(*path, "bias")] = (f"{name}.mlp_out.layers.1.bias",)
        path = (f"angle_update_{k}",)
        gated(path, (*path, "input"), f"angle_layers.{k}.twoBody_bond", hidden=False)

    if config.layer_norm:
        table["readout_norm", "scale"] = ("readout_norm.weight",)
        table["readout_norm", "bias"] = ("readout_norm.bias",)
    for k in range(config.readout_layers + 1):
        # Their readout counts activations and one dropout as layers too.
        last = k == config.readout_layers
        path, layer = ("readout_out", 2 * k + 1) if last else (f"readout_{k}", 2 * k)
        table[path, "kernel"] = (f"mlp.layers.{layer}.weight",)
        table[path, "bias"] = (f"mlp.layers.{layer}.bias",)
    return table


def _is_embedding(path: tuple[str, ...]) -> bool:
    return path == ("species",)


def from_published(arrays: Mapping[str, np.ndarray], config: Config, origin: str) -> Params:
    """Parameters of `network.CHGNet` from published weights, in JAX's default float type.

    Raises:
        InputError: a missing or unexpected array, or a value that isn't finite.
    """
    table = _table(config)
    expected = {name for names in table.values() for name in names}
    if missing := sorted(expected - set(arrays)):
        raise InputError(
            f"{origin} lacks {missing[0]} and {len(missing) - 1} more arrays: not a CHGNet checkpoint?"
        )
    if extra := sorted(set(arrays) - expected):
        raise InputError(
            f"{origin} has {extra[0]} and {len(extra) - 1} more arrays that this CHGNet doesn't have"
        )
    params: Params = {}
    for path, names in table.items():
        parts = [np.asarray(arrays[name]) for name in names]
        if any(not np.all(np.isfinite(part)) for part in parts):
            raise InputError(f"{origin}: {names[0]} holds NaN or infinite values")
        if path == ("reference_energies",):
            value = parts[0][0]
        elif _is_embedding(path):
            value = parts[0]
        else:
            value = np.concatenate([part.T for part in parts], axis=-1)
        branch = params
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = jnp.asarray(value, dtype=float)
    return params


def to_published(params: Params, config: Config) -> Arrays:
    """Weights under their published names, float32: the inverse of `from_published`."""
    arrays: Arrays = {}
    for path, names in _table(config).items():
        value: Any = params
        for key in path:
            value = value[key]
        value = np.asarray(value, np.float32)
        if path == ("reference_energies",):
            arrays[names[0]] = value[None, :]
        elif _is_embedding(path):
            arrays[names[0]] = value
        else:
            for name, part in zip(names, np.split(value, len(names), axis=-1), strict=True):
                arrays[name] = np.ascontiguousarray(part.T)
    return arrays


def convert(published: Published, model: Model) -> Weights:
    """The weights in a checkpoint; nothing in it is run.

    Raises:
        InputError: no checkpoint of a CHGNet.
    """
    content = checkpoint_zip.read(published.data, published.origin)
    try:
        arrays, arguments = content["model"]["state_dict"], content["model"]["model_args"]
        arguments = json.loads(json.dumps(arguments))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{published.origin} is not a CHGNet checkpoint (no {error}): check the path"
        ) from error
    return Weights(model.name, arguments, dict(arrays))


def build(weights: Weights, model: Model, origin: str) -> tuple[Potential, Params]:
    """The potential and its parameters.

    Raises:
        InputError: settings or arrays that no published checkpoint has.
    """
    config = read_config(weights.arguments, weights.arrays, origin)
    params = from_published(weights.arrays, config, origin)
    return network.build(config, elements=model.elements, name=model.name), params


def unload(params: Params, weights: Weights) -> Weights:
    """The same weights with other parameters."""
    config = read_config(weights.arguments, weights.arrays, weights.model)
    return weights._replace(arrays=to_published(params, config))


def encode(weights: Weights) -> bytes:
    """A checkpoint that the chgnet package loads."""
    # Sorted, so that the same weights make the same file wherever they were kept.
    arrays = dict(sorted(weights.arrays.items()))
    return checkpoint_zip.write({"model": {"model_args": weights.arguments, "state_dict": arrays}})


FAMILY = Family(
    convert,
    build,
    unload,
    Original("chgnet", ".pth.tar", encode, Path(__file__).with_name("ask_original.py")),
)
