"""The published file of a model: what it must be, and what was found in its place where it isn't.

Files are the user's, or the cache's, so what is wrong with one is input at fault. Whoever fetches a file over a
network says so in its own words.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from bptt_relax.outcomes import InputError
from bptt_relax.weights.registry import Model

MAX_FILE_BYTES = 1 << 30


class Published(NamedTuple):
    """The published file of a model.

    Attributes:
        data: its bytes, already checked against the registry.
        origin: what messages call it.
        licence: text of the licence that came with it.
    """

    data: bytes
    origin: str
    licence: str


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        InputError: no such file, or larger than any weights.
    """
    if not path.is_file():
        raise InputError(f"no weights at {path}: check the path")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{path} has {path.stat().st_size} bytes, too large to be weights: check the path")
    return path.read_bytes()


def refuse_disguised(data: bytes, origin: str | Path) -> None:
    """Say what a file is when it is one of the usual things found in place of weights.

    Args:
        data: the file, or its beginning.
        origin: what messages call it.

    Raises:
        InputError: empty file, git-LFS pointer, web page or bare pickle.
    """
    head = data[:512].lstrip()
    if not data:
        reason = "is empty: fetch it again"
    elif head.startswith(b"version https://git-lfs"):
        reason = "is a git-LFS pointer, not the weights: run `git lfs pull` where it came from"
    elif head.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        reason = (
            "is a web page, not the weights: an error or login page was saved in their place; fetch it again"
        )
    elif data[:1] == b"\x80" and not _begins_as_safetensors(data):
        reason = (
            "is a bare pickle, which can run code when loaded: convert it to .safetensors where you trust it"
        )
    else:
        return
    raise InputError(f"{origin} {reason}")


def _begins_as_safetensors(data: bytes) -> bool:
    """A length that such a file may have, then JSON. One length in 32 has the first byte of a pickle."""
    return int.from_bytes(data[:8], "little") <= MAX_FILE_BYTES and data[8:9] == b"{"


def verify(model: Model, data: bytes, origin: str) -> None:
    """Compare with the registry.

    Raises:
        InputError: not the published file; the message says what it looks like instead.
    """
    found = hashlib.sha256(data).hexdigest()
    if found == model.sha256:
        return
    refuse_disguised(data, origin)
    if len(data) < model.size:
        raise InputError(
            f"{origin} is cut off or another file ({len(data)} of the {model.size} bytes of {model.name}): "
            "fetch it again"
        )
    raise InputError(
        f"{origin} is not the published {model.name} (sha256 {found[:12]}..., not {model.sha256[:12]}...): "
        "fetch it again"
    )
