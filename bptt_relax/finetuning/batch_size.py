"""How many relaxations an update sees, how often and at which learning rate, by device and data."""

from math import ceil, sqrt
from typing import Any, NamedTuple

import jax

from bptt_relax import distributed, threads
from bptt_relax.finetuning.settings import BpttSettings

MOST_SIDE_BY_SIDE = 32
"""Relaxations per update on an accelerator; batches beyond it cost time and teach no faster."""

EPOCHS = 4
"""Passes over the relaxations, at least."""

UPDATES = 160
"""On an accelerator, at least: an update of all relaxations side by side costs it little more than one of a few."""

LEARNING_RATES = (5e-4, 1e-3)
"""For one relaxation per update, and the largest."""


class BatchChoice(NamedTuple):
    """Of a stage of BPTT.

    Attributes:
        size: relaxations per update.
        learning_rate: at the top of its schedule.
        ionic_steps: beside them.
        epochs: passes over the relaxations.
        sentence: the same in words.
    """

    size: int
    learning_rate: float
    ionic_steps: int
    epochs: int
    sentence: str


def describe_device() -> dict[str, Any]:
    """What the default depends on: this machine, and how many processes have one like it."""
    return {
        "backend": jax.default_backend(),
        "cores": threads.cores(),
        "devices": jax.local_device_count(),
        "processes": distributed.processes().count,
    }


def as_device(found: dict[str, Any]) -> dict[str, Any]:
    """What `describe_device` said, from a file.

    Raises:
        KeyError, TypeError, ValueError: the file holds something else.
    """
    counts = {key: int(found[key]) for key in ("cores", "devices", "processes")}
    return {"backend": str(found["backend"]), **counts}


def choose_batch(settings: BpttSettings, num_relaxations: int, device: dict[str, Any]) -> BatchChoice:
    """The settings where they say it, what suits device and data where they don't.

    Args:
        settings: of BPTT.
        num_relaxations: to learn from.
        device: from `describe_device`, on the machine where the run was started.
    """
    on_cpu = device["backend"] == "cpu" and device["devices"] == 1
    units, one = ("cores", 1) if on_cpu else ("devices", MOST_SIDE_BY_SIDE)
    most = one * device[units] * device["processes"]
    size = min(settings.batch_size or most, num_relaxations)
    lowest, highest = LEARNING_RATES
    rate = settings.learning_rate or min(highest, lowest * sqrt(size))
    steps = max(settings.ionic_steps, size)
    per_epoch = ceil(num_relaxations / max(size, 1))
    epochs = settings.epochs
    if epochs is None:
        epochs = EPOCHS if on_cpu else max(EPOCHS, ceil(UPDATES / max(per_epoch, 1)))
    where = f"{device['cores']} cores" if on_cpu else f"{device['devices']} x {device['backend']}"
    if device["processes"] > 1:
        where = f"{device['processes']} processes with {where} each"
    why = "as set" if settings.batch_size else f"for {where}, {num_relaxations} relaxations"
    passes = f"{epochs} passes of {per_epoch} updates"
    sentence = f"{size} relaxations per update ({why}), {passes}, learning rate {rate:.2g}"
    return BatchChoice(size, rate, steps, epochs, sentence)
