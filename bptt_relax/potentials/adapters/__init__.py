"""Other people's potentials: an energy function, a Flax or Equinox module, an mlip force field.

Each adapter gives ``(potential, params)``, which everything else in the package takes.
"""

from bptt_relax.potentials.adapters.energy_fn import from_energy_fn
from bptt_relax.potentials.adapters.eqx import from_equinox
from bptt_relax.potentials.adapters.linen import from_linen
from bptt_relax.potentials.adapters.mlip import from_mlip
from bptt_relax.potentials.adapters.nnx import from_nnx
from bptt_relax.potentials.adapters.pair_fn import from_pair_fn

__all__ = ["from_energy_fn", "from_equinox", "from_linen", "from_mlip", "from_nnx", "from_pair_fn"]
