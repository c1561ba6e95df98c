"""Equinox modules."""

from typing import Any

from bptt_relax._types import Params
from bptt_relax.outcomes import ModelError
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.adapters.energy_fn import from_energy_fn
from bptt_relax.potentials.adapters.named import with_names_of


def from_equinox(module: Any, cutoff: float, **options: Any) -> tuple[Potential, Params]:
    """A potential from an Equinox module whose call gives an energy.

    Args:
        module: ``module(...)`` gives the energy () or energies of atoms (N,), eV; its parameters are named as those
            of `from_energy_fn`. Its floating-point arrays train, everything else is constant.
        cutoff: angstrom.
        **options: as for `from_energy_fn`.

    Returns:
        the potential, and a module that holds the floating-point arrays alone. ``equinox.combine(params, module)``
        is the module with tuned ones.

    Raises:
        ModelError: equinox is not installed.
        ValueError: as for `from_energy_fn`.
    """
    try:
        import equinox  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelError("equinox is not installed: pip install 'bptt-relax[equinox]'") from error

    params, constants = equinox.partition(module, equinox.is_inexact_array)

    def energy_fn(params: Params, **given: Any) -> Any:
        return equinox.combine(params, constants)(**given)

    named = with_names_of(module.__call__, energy_fn)
    return from_energy_fn(named, params, cutoff, **{"name": type(module).__name__, **options})
