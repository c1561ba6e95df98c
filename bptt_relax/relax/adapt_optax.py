"""Any optax gradient transformation as an update rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bptt_relax._types import Array
from bptt_relax.relax._contract import UpdateRule


def from_optax(transformation: optax.GradientTransformation) -> UpdateRule:
    """Move atoms as an optax transformation moves parameters, with minus the forces for gradients.

    Its own hyperparameters are Python numbers and not learnable; `descent`, `momentum` and `fire` have learnable ones.

    Refused, each with the reason, are transformations
    - that read the parameters or the value of the loss (weight decay, trust ratios, L-BFGS): a rule sees forces only;
    - whose update has no finite gradient at zero force, where fixed and padded atoms always and perfect crystals
      often are: ``optax.adam(lr)`` and ``optax.clip_by_global_norm`` are such. ``optax.adam(lr, eps_root=1e-12)`` and
      `cap_displacement` are not;
    - that let padding change what the atoms do (means over rows, noise).

    Args:
        transformation: for example ``optax.sgd(0.05, momentum=0.9)``; the learning rate is in angstrom^2/eV.

    Raises:
        ValueError: the transformation is one of these.
    """
    _check_without_parameters(transformation)
    _check_gradient_at_zero(transformation)
    _check_padding(transformation)

    def init(hyper, system):
        del hyper
        return transformation.init(jnp.zeros(system.free.shape, system.masses.dtype))

    def update(hyper, forces, rule_state, system):
        del hyper, system
        displacement, rule_state = transformation.update(-forces, rule_state)
        return jnp.asarray(displacement).astype(forces.dtype), rule_state

    return UpdateRule((), init, update)


def _two_updates(transformation: optax.GradientTransformation, gradient: Array) -> Array:
    """What two updates with the same gradient add up to."""
    first, state = transformation.update(gradient, transformation.init(jnp.zeros_like(gradient)))
    second, _ = transformation.update(gradient, state)
    return jnp.asarray(first) + jnp.asarray(second)


def _check_without_parameters(transformation: optax.GradientTransformation) -> None:
    try:
        jax.eval_shape(lambda g: _two_updates(transformation, g), jnp.zeros((2, 3)))
    except Exception as error:
        raise ValueError(
            "transformation reads more than gradients (parameters, or the value of the loss), and a rule sees forces "
            f"only: leave out weight decay, trust ratios, line searches and L-BFGS. optax says: {error}"
        ) from error


def _check_gradient_at_zero(transformation: optax.GradientTransformation) -> None:
    gradient = jax.grad(lambda g: jnp.sum(_two_updates(transformation, g)))(jnp.zeros((2, 3)))
    if not np.all(np.isfinite(gradient)):
        raise ValueError(
            "transformation has no finite gradient at zero force, where fixed and padded atoms are: give adam and its "
            "like eps_root=1e-12, and take relax.cap_displacement for clipping by a norm"
        )


def _check_padding(transformation: optax.GradientTransformation) -> None:
    gradient = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))
    alone = _two_updates(transformation, gradient)
    padded = _two_updates(transformation, jnp.pad(gradient, ((0, 2), (0, 0))))
    # Rounding may differ with the shape, by some units in the last place.
    if not np.allclose(padded[:3], alone, rtol=1e-4, atol=1e-6) or np.any(padded[3:] != 0):
        raise ValueError(
            "transformation moves atoms differently when rows of zeros are added to the gradient, as padding does: "
            "leave out means over rows and noise"
        )
