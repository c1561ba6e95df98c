"""The models that can be pretrained: how each is built, and what its training minimizes. One entry per kind."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from ase.data import chemical_symbols

from bptt_relax import losses
from bptt_relax._types import Array, Params
from bptt_relax.experiments.pretrain.config import PretrainConfig, TrainingSettings
from bptt_relax.experiments.pretrain.frames import SinglePoint, spread
from bptt_relax.models import adapt, nequip
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential
from bptt_relax.systems import Structure
from bptt_relax.training import LabelledFrame, Objective, force_matching


class Plan(NamedTuple):
    """A model that is ready to be trained.

    Attributes:
        model: name of the registry under which its weights are saved.
        arguments: its settings as its weights keep them, plain JSON.
        potential: with random starting parameters.
        objective: of one frame.
        training: how to train it.
        weights: structure -> (n,) weights of its atoms in the error; None where all weigh one.
        start: random parameters -> those that training starts from.
        finish: trained parameters -> those that are saved.
    """

    model: str
    arguments: dict[str, Any]
    potential: Potential
    objective: Objective
    training: TrainingSettings
    weights: Callable[[Structure], np.ndarray] | None = None
    start: Callable[[Params], Params] = lambda params: params
    finish: Callable[[Params], Params] = lambda params: params


def _adapt(config: PretrainConfig, train: list[SinglePoint]) -> Plan:
    """ADAPT by its published recipe: inputs and targets standardized, lengths of errors, Adam."""
    c = config.adapt
    if c.reach:
        # Of atoms that fill a ball evenly.
        extent = c.reach / 5**0.5
    else:
        extent = spread([p.structure.positions - p.structure.positions.mean(axis=0) for p in train])
    sizes = adapt.Config(
        reach=c.reach,
        slots=c.slots,
        width=c.width,
        hidden=c.hidden,
        num_layers=c.layers,
        num_heads=c.heads,
        dropout=c.dropout,
        position_scale=adapt.SPREAD * extent,
        force_scale=adapt.SPREAD * spread([p.forces for p in train]),
        property_center=adapt.property_center(np.concatenate([p.structure.species for p in train])),
    )
    potential = adapt.build(sizes, name="adapt-silicon")
    noisy = adapt.noisy_forces(sizes)

    def forces(params, frame: LabelledFrame, graph):
        key = jax.random.wrap_key_data(cast(Array, frame.key))
        return noisy(params, frame.positions, frame.system, graph, key)

    def error(found, frame: LabelledFrame):
        return losses.force_distance(found, frame.forces, frame.system, frame.weights)

    objective = force_matching(potential, error=error, forces=forces if c.dropout else None)
    return Plan("adapt-silicon", sizes._asdict(), potential, objective, c.training, weights=impurity_weights)


def _nequip(config: PretrainConfig, train: list[SinglePoint]) -> Plan:
    """NequIP: energies in units of the size of forces, errors that count linearly from early on."""
    c = config.nequip
    sizes = nequip.Config(
        channels=c.channels,
        max_harmonic=len(c.channels) - 1,
        num_layers=c.layers,
        cutoff=c.cutoff,
        num_radial=c.num_radial,
        radial_width=c.radial_width,
        radial_layers=c.radial_layers,
        num_neighbors=c.num_neighbors,
        scale=spread([p.forces for p in train]),
    )
    potential = nequip.build(sizes, name="nequip-silicon", channels_last=True)
    rows = _rows_of_known_elements(sizes.species, train)
    objective = force_matching(potential, delta=c.huber_delta)
    return Plan(
        "nequip-silicon",
        sizes._asdict(),
        potential,
        objective,
        c.training,
        # e3nn divides by the root of the number of inputs as if all were set; of a one-hot input one is.
        start=lambda params: nequip.take_rows(params, rows, len(sizes.species) ** 0.5),
        finish=lambda params: nequip.take_rows(params, rows),
    )


def _rows_of_known_elements(species: tuple[int, ...], train: list[SinglePoint]) -> list[int]:
    """For each element of a model the row to read: its own, or of one without data that of the most frequent one."""
    found, counts = np.unique(np.concatenate([p.structure.species for p in train]), return_counts=True)
    if strangers := sorted(set(found.tolist()) - set(species)):
        raise InputError(
            f"--data holds the elements {', '.join(chemical_symbols[z] for z in strangers)}, for which nequip has no "
            f"rows (it has {', '.join(chemical_symbols[z] for z in species)}): leave them out"
        )
    common = species.index(int(found[counts.argmax()]))
    return [row if z in found else common for row, z in enumerate(species)]


KINDS: dict[str, Callable[[PretrainConfig, list[SinglePoint]], Plan]] = {"adapt": _adapt, "nequip": _nequip}
"""Kind -> (settings, frames to train on) -> plan."""


def impurity_weights(structure: Structure) -> np.ndarray:
    """ADAPT's weights (n,): 1 + 5.4 times the sum of 1/d^2 over the impurities, 10 on an impurity itself.

    Impurities are the atoms of all elements but the most frequent one; d is the distance to the nearest image, in
    angstrom. All weights of a pure crystal are 1.

    References:
        Dramko et al., arXiv:2509.24115; the numbers are read off their public sample.
    """
    species, counts = np.unique(structure.species, return_counts=True)
    impurities = np.flatnonzero(structure.species != species[counts.argmax()])
    weights = np.ones(len(structure.species))
    for impurity in impurities:
        d = structure.positions - structure.positions[impurity]
        images = np.where(structure.pbc, np.rint(d @ np.linalg.inv(structure.cell)), 0.0)
        squared = np.sum((d - images @ structure.cell) ** 2, axis=1)
        weights += 5.4 / np.maximum(squared, 1.0)
    weights[impurities] = 10.0
    return weights
