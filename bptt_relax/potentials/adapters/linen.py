"""Flax linen modules."""

from collections.abc import Mapping
from typing import Any

from bptt_relax._types import Params
from bptt_relax.potentials._contract import Potential
from bptt_relax.potentials.adapters.energy_fn import from_energy_fn
from bptt_relax.potentials.adapters.named import with_names_of


def from_linen(
    module: Any, variables: Mapping[str, Any], cutoff: float, **options: Any
) -> tuple[Potential, Params]:
    """A potential from a linen module whose call gives an energy.

    Args:
        module: ``module(...)`` gives the energy () or energies of atoms (N,), eV; its parameters are named as those
            of `from_energy_fn`.
        variables: what ``module.init`` gave or a checkpoint holds. The collection ``params`` trains, others are
            constants.
        cutoff: angstrom.
        **options: as for `from_energy_fn`.

    Returns:
        the potential, and the collection ``params``.

    Raises:
        ValueError: there is no collection ``params``, or as for `from_energy_fn`.
    """
    if "params" not in variables:
        raise ValueError(
            f"variables hold {', '.join(variables) or 'nothing'} and no 'params': give what module.init returns"
        )
    constants = {name: values for name, values in variables.items() if name != "params"}

    def energy_fn(params: Params, **given: Any) -> Any:
        return module.apply({**constants, "params": params}, **given)

    named = with_names_of(module.__call__, energy_fn)
    return from_energy_fn(named, variables["params"], cutoff, **{"name": type(module).__name__, **options})
