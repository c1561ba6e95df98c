"""What one gradient costs, and how far it is that of the whole unroll."""

import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import NamedTuple

import jax
import numpy as np

from bptt_relax._types import PyTree
from bptt_relax.analysis import program_bytes
from bptt_relax.relax import Theta
from bptt_relax.training import Stage

NOTHING = 1e-6
"""A structure's gradient shorter than this part of the whole is none: what is left is rounding."""


class Cost(NamedTuple):
    """Of one gradient, forces of ionic steps included.

    Attributes:
        temporary_bytes: of the compiled program.
        seconds: mean over the structures.
        usable: share of structures with a gradient; None for what differentiates no relaxation.
        cosine: mean over these, between the structure's gradient and that through the whole unroll; None where there
            is none to compare with.
    """

    temporary_bytes: int
    seconds: float
    usable: float | None = None
    cosine: float | None = None


def costs(
    stages: Mapping[str, Stage],
    forces: Stage,
    force_weight: float,
    theta: Theta,
    count: int,
    on_stage: Callable[[], None] = lambda: None,
) -> dict[str, Cost]:
    """Compile the gradient of every stage once, then let them take turns on the same structures.

    Args:
        stages: of BPTT, by name; one called ``full`` is what the others are compared with.
        forces: force matching, on batches as large as those mixed into BPTT.
        force_weight: of force matching within BPTT; 0 where it is none of its examples.
        theta: the model.
        count: structures.
        on_stage: told after each compilation.

    Returns:
        one entry per stage, that of force matching as ``forces``.
    """
    found: dict[str, list[tuple[float, PyTree]]] = {name: [] for name in (*stages, "forces")}
    examples = {name: list(islice(stage.examples(0), count)) for name, stage in stages.items()}
    examples["forces"] = list(islice(forces.examples(0), count))
    programs = {}
    for name, stage in (*stages.items(), ("forces", forces)):
        programs[name] = compile_gradient(stage, theta, examples[name][0].data)
        on_stage()
    for index in range(count):
        for name, program in programs.items():
            batch = examples[name]
            if index < len(batch):
                found[name].append(timed(program, theta, batch[index].data))
    parts = {}
    for name in stages:
        shared = [
            _scaled(programs["forces"](theta, example.data[1])[1], force_weight) if force_weight else None
            for example in examples[name]
        ]
        parts[name] = [
            structure_part(gradient, other) for (_, gradient), other in zip(found[name], shared, strict=True)
        ]
    return {
        name: Cost(
            program_bytes(programs[name]),
            float(np.mean([seconds for seconds, _ in found[name]])),
            *_agreement(parts.get(name), parts.get("full")),
        )
        for name in programs
    }


def compile_gradient(stage: Stage, theta: Theta, example: PyTree):
    """The compiled (theta, example) -> ((loss, outcome), gradient) of a stage."""
    return jax.jit(stage.objective.value_and_grad).lower(theta, example).compile()


def timed(program, theta: Theta, example: PyTree) -> tuple[float, PyTree]:
    """Seconds that a gradient took, and the gradient."""
    start = time.perf_counter()
    _, gradient = jax.block_until_ready(program(theta, example))
    return time.perf_counter() - start, gradient


def structure_part(gradient: PyTree, forces: PyTree | None) -> np.ndarray:
    """What a gradient says about where a relaxation ends, as one vector; zero where that is nothing."""
    whole = _flat(gradient)
    part = whole if forces is None else whole - _flat(forces)
    return part if np.linalg.norm(part) > NOTHING * np.linalg.norm(whole) else np.zeros_like(part)


def _agreement(
    parts: list[np.ndarray] | None, full: list[np.ndarray] | None
) -> tuple[float | None, float | None]:
    if parts is None:
        return None, None
    usable = [bool(np.any(part)) and bool(np.all(np.isfinite(part))) for part in parts]
    cosines = [
        float(part @ exact / (np.linalg.norm(part) * np.linalg.norm(exact)))
        for part, exact, good in zip(parts, full or (), usable, strict=False)
        if good and np.any(exact)
    ]
    return float(np.mean(usable)), float(np.mean(cosines)) if cosines else None


def _scaled(gradient: PyTree, weight: float) -> PyTree:
    return jax.tree.map(lambda leaf: weight * leaf, gradient)


def _flat(gradient: PyTree) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(gradient)])
