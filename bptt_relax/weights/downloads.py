"""Weights that are a file at a public address: fetched whole and as published, or not at all."""

import http.client
import urllib.request

from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.weights.published import Published, verify
from bptt_relax.weights.registry import Model, PublicFile

TIMEOUT = 60.0
"""Seconds without an answer after which a download is given up."""


def fetch(model: Model, source: PublicFile) -> Published:
    """The file at its address.

    Args:
        model: registry entry.
        source: its address.

    Raises:
        ModelError: no answer, an answer cut off, or not the published file.
    """
    try:
        with urllib.request.urlopen(source.address, timeout=TIMEOUT) as answer:
            # One byte more than it may have: enough to know, whatever a wrong server goes on to send.
            data = answer.read(model.size + 1)
        verify(model, data, f"the answer of {source.address}")
    except (OSError, http.client.HTTPException, InputError) as error:
        raise ModelError(
            f"the weights of {model.name} could not be fetched ({error}): get {source.address} elsewhere and "
            f"give the file: bptt-relax models fetch {model.name} --source {source.file_name}"
        ) from error
    return Published(data, source.file_name, model.notice)
