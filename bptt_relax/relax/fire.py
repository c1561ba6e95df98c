"""FIRE, the fast inertial relaxation engine: downhill dynamics that stops and shrinks its time step when uphill."""

from typing import NamedTuple

import jax.numpy as jnp

from bptt_relax._types import Array, Scalar
from bptt_relax.relax import hyper as transforms
from bptt_relax.relax._contract import UpdateRule
from bptt_relax.trees import safe_norm


class FireState(NamedTuple):
    """Memory of `fire`.

    Attributes:
        velocity: (N, 3) angstrom per unit of time; the masses are one, so the unit of time is angstrom / sqrt(eV).
        time_step: () in that unit.
        mixing: () how much of the velocity is turned along the forces, alpha in the paper.
        downhill: () int, steps since the velocity last pointed uphill.
        started: () bool, a step has been made. The first one takes time step and mixing from the hyperparameters
            themselves, so that a state made elsewhere does not hold them back from their gradient.
    """

    velocity: Array
    time_step: Scalar
    mixing: Scalar
    downhill: Array
    started: Array


def fire(
    time_step: float = 0.1,
    *,
    largest_time_step: float = 0.3,
    mixing: float = 0.1,
    growth: float = 1.1,
    shrink: float = 0.5,
    mixing_decay: float = 0.99,
    patience: int = 5,
    largest_step: float | None = 0.2,
) -> UpdateRule:
    """Fast inertial relaxation engine, step by step that of ``ase.optimize.FIRE``.

    With v the velocity and F the forces of one structure:

        if F . v > 0:   v <- (1 - alpha) v + alpha |v| F / |F|,
                        and after ``patience`` such steps  dt <- min(growth dt, largest_time_step),
                        alpha <- mixing_decay alpha
        otherwise:      v <- 0,  dt <- shrink dt,  alpha <- mixing
        v <- v + dt F,  displacement = dt v

    The turns are discrete and have no gradient; everything between them has, for every hyperparameter but
    ``largest_time_step``, ``patience`` and ``largest_step``. Norms are those of one structure, and zero where it has
    no force or velocity, with gradient zero.

    Args:
        time_step: first dt, learnable; angstrom / sqrt(eV), as all masses are one. ASE calls it ``dt``.
        largest_time_step: bound on dt. Keep it below 2 / sqrt(L), with L the largest eigenvalue of the Hessian in
            eV/angstrom^2: beyond it the steps still come back, by turning uphill again and again, but their
            derivative grows without bound. ASE's default, 1.0, is beyond it for most solids; 0.3 is good for L up to
            44. ASE calls it ``dtmax``.
        mixing: first alpha, learnable (``astart``, ``a``).
        growth: factor on dt, above one, learnable (``finc``).
        shrink: factor on dt after an uphill step, learnable (``fdec``).
        mixing_decay: factor on alpha, learnable (``fa``).
        patience: downhill steps before dt grows (``Nmin``).
        largest_step: bound on the Euclidean norm of the displacement of the whole structure, angstrom
            (``maxstep``); None for no bound. It binds large structures more than small ones: `cap_displacement` does
            not.

    Raises:
        ValueError: an argument is out of range.

    References:
        Bitzek et al., doi:10.1103/PhysRevLett.97.170201.
    """
    if not time_step <= largest_time_step:
        raise ValueError(
            f"time_step must not exceed largest_time_step, got {time_step} and {largest_time_step}"
        )
    if not growth > 1:
        raise ValueError(f"growth must be above one, got {growth}")
    if not isinstance(patience, int) or patience < 0:
        raise ValueError(f"patience must be an integer, zero or more, got {patience!r}")
    if largest_step is not None and not largest_step > 0:
        raise ValueError(f"largest_step must be positive or None, got {largest_step}")
    hyper = {
        "log_time_step": transforms.from_positive(time_step, "time_step"),
        "logit_mixing": transforms.from_fraction(mixing, "mixing"),
        "log_growth": transforms.from_positive(growth - 1.0, "growth - 1"),
        "logit_shrink": transforms.from_fraction(shrink, "shrink"),
        "logit_mixing_decay": transforms.from_fraction(mixing_decay, "mixing_decay"),
    }

    def init(hyper, system) -> FireState:
        del hyper
        dtype = system.masses.dtype
        return FireState(
            velocity=jnp.zeros(system.free.shape, dtype),
            time_step=jnp.zeros((), dtype),
            mixing=jnp.zeros((), dtype),
            downhill=jnp.zeros((), jnp.int32),
            started=jnp.asarray(False),
        )

    def update(hyper, forces, rule_state, system):
        del system
        h = {name: value.astype(forces.dtype) for name, value in hyper.items()}
        first_dt = jnp.minimum(transforms.to_positive(h["log_time_step"]), largest_time_step)
        first_alpha = transforms.to_fraction(h["logit_mixing"])
        started, v = rule_state.started, rule_state.velocity
        dt = jnp.where(started, rule_state.time_step, first_dt)
        alpha = jnp.where(started, rule_state.mixing, first_alpha)

        downhill = jnp.sum(forces * v) > 0
        patient = rule_state.downhill > patience
        turned = (1.0 - alpha) * v + alpha * _norm(v) * _direction(forces)
        grown = jnp.minimum(dt * (1.0 + transforms.to_positive(h["log_growth"])), largest_time_step)
        decayed = alpha * transforms.to_fraction(h["logit_mixing_decay"])
        # Uphill does not hold for the first step, whose velocity is zero: it keeps its time step.
        shrunk = jnp.where(started, dt * transforms.to_fraction(h["logit_shrink"]), dt)

        v = jnp.where(downhill, turned, 0.0)
        dt = jnp.where(downhill, jnp.where(patient, grown, dt), shrunk)
        alpha = jnp.where(downhill, jnp.where(patient, decayed, alpha), first_alpha)
        v = v + dt * forces
        displacement = dt * v
        if largest_step is not None:
            length = _norm(displacement)
            too_far = length > largest_step
            displacement = displacement * jnp.where(
                too_far, largest_step / jnp.where(too_far, length, 1.0), 1.0
            )
        count = jnp.where(downhill, rule_state.downhill + 1, 0)
        return displacement, FireState(v, dt, alpha, count, jnp.asarray(True))

    return UpdateRule(hyper, init, update)


def _norm(x: Array) -> Scalar:
    """Euclidean norm over all components, with gradient zero where it is zero."""
    return safe_norm(x.reshape(-1))


def _direction(x: Array) -> Array:
    """Unit vector along x; zero, and without infinite gradient, where x is zero."""
    length = _norm(x)
    return x / jnp.where(length > 0, length, 1.0)
