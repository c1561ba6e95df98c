"""Removal of the rigid drift of a structure."""

import jax.numpy as jnp

from bptt_relax.relax._contract import UpdateRule


def remove_drift() -> UpdateRule:
    """Subtract the mean displacement of the atoms, for potentials whose forces do not add up to zero.

    Forces from a head of their own (direct forces) push the whole structure along; no loss sees that, and neighbor
    lists go stale for it. Along an axis in which some atom is held fixed the frame is given, the others may move
    together, and nothing is removed.
    """

    def init(hyper, system):
        del hyper, system
        return ()

    def update(hyper, forces, rule_state, system):
        del hyper
        atoms = system.mask[:, None]
        drifts = jnp.all(system.free | ~atoms, axis=0, keepdims=True)
        count = jnp.maximum(jnp.sum(atoms), 1).astype(forces.dtype)
        mean = jnp.sum(jnp.where(atoms, forces, 0.0), axis=0, keepdims=True) / count
        return forces - jnp.where(atoms & drifts, mean, 0.0), rule_state

    return UpdateRule((), init, update)
