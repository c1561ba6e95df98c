"""The cache of converted weights: one folder per model with weights, a manifest and the licence."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from bptt_relax.outcomes import InputError
from bptt_relax.weights import weights_file
from bptt_relax.weights.published import Published
from bptt_relax.weights.registry import Model
from bptt_relax.weights.weights_file import Weights


def folder() -> Path:
    """Where converted weights are kept: $BPTT_RELAX_CACHE, else bptt_relax in the user's cache folder."""
    if chosen := os.environ.get("BPTT_RELAX_CACHE"):
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "bptt_relax"


def entry(model: Model) -> Path:
    """Folder of one model in the cache, there or not."""
    return folder() / model.name


def read(model: Model) -> Weights | None:
    """Cached weights of a model; None where there are none, or only those of another release of it.

    Raises:
        InputError: what is cached is damaged; the message names the folder and how to mend it.
    """
    place = entry(model)
    if not place.is_dir():
        return None
    path = place / "weights.safetensors"
    mend = f"delete the folder {place}, or run `bptt-relax models fetch {model.name}`"
    try:
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        expected, published = manifest["weights_sha256"], manifest["origin_sha256"]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the cached weights in {place} can't be read ({error}): {mend}") from error
    if published != model.sha256:
        return None
    if found != expected:
        raise InputError(
            f"{path} is damaged (sha256 {found[:12]}..., not {expected[:12]}... as in its manifest): {mend}"
        )
    return weights_file.read(path)


def write(model: Model, weights: Weights, published: Published) -> None:
    """Keep converted weights, their manifest and their licence in place of what is there; whole or not at all.

    A cache that can't be written costs a conversion next time and nothing else, so that is not an error.

    Args:
        model: registry entry.
        weights: to keep.
        published: the file they came from.
    """
    place = entry(model)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{model.name}."))
    except OSError:
        return
    try:
        path = staging / "new" / "weights.safetensors"
        weights_file.write(path, weights)
        manifest = {
            "model": model.name,
            "origin": published.origin.rsplit("/", 1)[-1],
            "origin_sha256": model.sha256,
            "licence": model.licence,
            "citation": model.citation,
            "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        (path.parent / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        (path.parent / "LICENSE.txt").write_text(published.licence.rstrip() + "\n", encoding="utf-8")
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, staging / "old")
        os.rename(path.parent, place)
    except OSError:  # full or read-only disk, or another process was first: its copy is as good
        pass
    finally:
        shutil.rmtree(staging, ignore_errors=True)
