"""Parameters of any potential on disk: safetensors, by their path in the pytree.

The potential itself is code and stays where it is written: what comes back is put into a pytree like the one that was
saved.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save as serialize

from bptt_relax._types import Params
from bptt_relax.outcomes import InputError
from bptt_relax.weights import own_format, weights_file
from bptt_relax.weights.published import read_bytes


def save_params(path: str | Path, params: Params, *, name: str = "potential") -> None:
    """Write the parameters of any potential to a .safetensors file, whole or not at all.

    Args:
        path: where; replaced if it exists.
        params: a pytree of floats, whatever its containers. Single and double precision are kept.
        name: of the potential, for whoever finds the file.

    Raises:
        InputError: not a .safetensors path, two parameters of one path, or a value that isn't finite.
    """
    path = Path(path)
    require_safetensors(path)
    arrays = {key: _storable(leaf) for key, leaf in own_format.by_path(params).items()}
    weights_file.require_finite(arrays, path)
    metadata = {"format": weights_file.PARAMETERS_FORMAT, "potential": name}
    weights_file.write_whole(path, serialize(arrays, metadata))


def load_params(path: str | Path, *, like: Params) -> Params:
    """Parameters from a file that `save_params` or fine-tuning of a potential from Python wrote.

    Args:
        path: of the file.
        like: a pytree of the same containers and shapes, such as the parameters before fine-tuning; its float types
            are taken.

    Raises:
        InputError: no such file, another format, an array that is missing, unexpected or of another shape, or a value
            that isn't finite.
    """
    arrays, metadata = weights_file.parse(read_bytes(Path(path)), str(path))
    if metadata.get("format") != weights_file.PARAMETERS_FORMAT:
        raise InputError(
            f"{path} holds no parameters that save_params wrote (format {metadata.get('format')!r}): weights of "
            "models with a name are read by models.load"
        )
    return own_format.fill(like, arrays, "like", str(path))


def require_safetensors(path: Path) -> None:
    """Refuse another suffix.

    Raises:
        InputError: it is not .safetensors.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"weights are saved as .safetensors, not {path.name}: rename it")


def _storable(leaf) -> np.ndarray:
    """In a float type that the format has everywhere: half precisions become single."""
    kept = jnp.result_type(leaf) in (jnp.float32, jnp.float64)
    return np.asarray(leaf, None if kept else np.float32, order="C")
