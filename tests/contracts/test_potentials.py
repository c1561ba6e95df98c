"""Our own potentials, and adapted functions, through the suite that everybody can run."""

import jax
import jax.numpy as jnp
import pytest

from bptt_relax.conformance import PotentialConformance
from bptt_relax.models import adapt, chgnet, nequip, nequix, sevennet
from bptt_relax.potentials import stillinger_weber
from bptt_relax.potentials.adapters import from_energy_fn, from_pair_fn

# Each class compiles some thirty programs.
pytestmark = pytest.mark.slow


def morse(params, r):
    x = jnp.exp(-params["alpha"] * (r - params["length"]))
    return params["depth"] * x * (x - 2)


MORSE = {"depth": 0.8, "length": 2.4, "alpha": 1.4}


class TestStillingerWeber(PotentialConformance):
    def make(self):
        potential = stillinger_weber()
        return potential, potential.init(None)


class TestPairFn(PotentialConformance):
    def make(self):
        return from_pair_fn(morse, MORSE, cutoff=4.5)


class TestEnergyOfEdges(PotentialConformance):
    def make(self):
        def energy_fn(params, distances, receivers, species):
            fade = jnp.where(distances < 4.5, (1 - (distances / 4.5) ** 2) ** 3, 0.0)
            return 0.5 * jax.ops.segment_sum(morse(params, distances) * fade, receivers, species.shape[0])

        return from_energy_fn(energy_fn, MORSE, 4.5)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")  # jax-md sums in what is not there
class TestEnergyOfPositions(PotentialConformance):
    """jax-md's list of neighbors names no images."""

    small_cells = False

    def make(self):
        from jax_md import energy, space

        displacement, _ = space.periodic_general(20.0, fractional_coordinates=False)
        _, pair = energy.morse_neighbor_list(
            displacement, 20.0, r_onset=2.5, r_cutoff=3.5, fractional_coordinates=False
        )

        def energy_fn(params, R, neighbor, box, perturbation):
            return pair(R, neighbor=neighbor, box=box, perturbation=perturbation, **params)

        params = {name: jnp.asarray(value) for name, value in MORSE.items()}
        params = {"sigma": params["length"], "epsilon": params["depth"], "alpha": params["alpha"]}
        return from_energy_fn(energy_fn, params, 3.5)


class TestChgnet(PotentialConformance):
    def make(self):
        config = chgnet.Config(
            cutoff=4.5,
            bond_cutoff=3.0,
            num_radial=5,
            num_angular=5,
            num_updates=2,
            features=8,
            readout_layers=1,
        )
        potential = chgnet.build(config, elements=(8, 14))
        return potential, potential.init(jax.random.key(0))


class TestNequix(PotentialConformance):
    def make(self):
        config = nequix.Config(
            species=(8, 14),
            channels=(3, 2, 1),
            max_harmonic=2,
            num_layers=2,
            radial_width=4,
            cutoff=4.0,
            scale=0.5,
            shift=-1.0,
        )
        potential = nequix.build(config)
        return potential, potential.init(jax.random.key(0))


class TestSevennet(PotentialConformance):
    """Without parity: the mirror image of a structure is another one."""

    reflections = False

    def make(self):
        config = sevennet.Config(
            species=(8, 14),
            channels=(4, 3, 2),
            cutoff=4.0,
            onset=3.5,
            radial_widths=(6,),
            denominators=(6.0, 6.0),
            modalities=2,
            modality=1,
        )
        potential = sevennet.build(config)
        return potential, potential.init(jax.random.key(0))


class TestNequip(PotentialConformance):
    """jax-md's own code; `TestNequipChannelsLast` has ours."""

    channels_last = False

    def make(self):
        config = nequip.Config(
            species=(8, 14),
            channels=(3, 2),
            max_harmonic=1,
            num_layers=2,
            radial_width=4,
            cutoff=4.0,
            num_neighbors=8.0,
        )
        potential = nequip.build(config, channels_last=self.channels_last)
        return potential, potential.init(jax.random.key(0))


class TestNequipChannelsLast(TestNequip):
    channels_last = True


class TestAdapt(PotentialConformance):
    """Forces of a head of their own: what only an energy can keep is skipped."""

    def make(self):
        config = adapt.Config(reach=4.0, width=8, hidden=8, num_layers=2, num_heads=2)
        potential = adapt.build(config, elements=(8, 14))
        return potential, potential.init(jax.random.key(0))
