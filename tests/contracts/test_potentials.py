"""Our own potentials, and adapted ones, through the suite that everybody can run."""

import jax.numpy as jnp
import pytest

from bptt_relax.conformance import PotentialConformance
from bptt_relax.potentials import stillinger_weber
from bptt_relax.potentials.adapters import from_pair_fn

# Not yet seen to pass as a whole on a quiet machine; see the closing note of the session that wrote it.
pytestmark = pytest.mark.slow


class TestStillingerWeber(PotentialConformance):
    def make(self):
        potential = stillinger_weber()
        return potential, potential.init(None)


class TestPairFn(PotentialConformance):
    def make(self):
        def morse(params, r):
            x = jnp.exp(-params["alpha"] * (r - params["length"]))
            return params["depth"] * x * (x - 2)

        return from_pair_fn(morse, {"depth": 0.8, "length": 2.4, "alpha": 1.4}, cutoff=4.5)
