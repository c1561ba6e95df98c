"""What the folder of a family says: how to read its published weights, build its potential, and write weights back."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from bptt_relax._types import Params
from bptt_relax.potentials import Potential
from bptt_relax.weights.published import Published
from bptt_relax.weights.registry import Model
from bptt_relax.weights.weights_file import Weights


class Original(NamedTuple):
    """The package that a family comes from.

    Attributes:
        package: its import name.
        suffix: how the name of its files of weights ends.
        encode: weights -> such a file.
        program: asks it for predictions, run by a Python that has the package. It is never imported: torch must not
            share a process with JAX, and others change JAX's settings. It reads ``{"file": path, "modality": name or
            "", "structures": {name: {numbers, cell, positions}}}`` from standard input and writes ``{"package": name
            and version, "predictions": {name: {energy, forces, stress}}}``, in eV and angstrom with ASE's signs.
    """

    package: str
    suffix: str
    encode: Callable[[Weights], bytes]
    program: Path


class Family(NamedTuple):
    """What one family does with weights; its ``weights.py`` calls it ``FAMILY``.

    Attributes:
        convert: published file -> weights.
        build: weights, model, what messages call the file -> potential and parameters.
        unload: parameters, weights they were built from -> weights under their published names.
        original: the package it comes from; None where there is none.
    """

    convert: Callable[[Published, Model], Weights]
    build: Callable[[Weights, Model, str], tuple[Potential, Params]]
    unload: Callable[[Params, Weights], Weights]
    original: Original | None = None


def family(model: Model) -> Family:
    """The family of a model of the registry, from the folder of its name."""
    return import_module(f"bptt_relax.models.{model.family.replace('-', '_')}.weights").FAMILY
