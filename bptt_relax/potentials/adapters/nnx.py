"""Flax nnx modules."""

from typing import Any

from bptt_relax._types import Params
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.adapters.energy_fn import from_energy_fn
from bptt_relax.potentials.adapters.named import with_names_of


def from_nnx(module: Any, cutoff: float, **options: Any) -> tuple[Potential, Params]:
    """A potential from an nnx module whose call gives an energy.

    Args:
        module: ``module(...)`` gives the energy () or energies of atoms (N,), eV; its parameters are named as those
            of `from_energy_fn`. Its ``nnx.Param`` variables train, others are constants. It is not changed.
        cutoff: angstrom.
        **options: as for `from_energy_fn`.

    Returns:
        the potential, and the parameters as nested dictionaries. ``nnx.update(module, params)`` puts tuned ones back.

    Raises:
        ValueError: as for `from_energy_fn`.
    """
    from flax import nnx

    definition, state, constants = nnx.split(module, nnx.Param, ...)
    params = nnx.to_pure_dict(state)

    def energy_fn(params: Params, **given: Any) -> Any:
        return nnx.merge(definition, nnx.State(params), constants)(**given)

    named = with_names_of(module.__call__, energy_fn)
    return from_energy_fn(named, params, cutoff, **{"name": type(module).__name__, **options})
