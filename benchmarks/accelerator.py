"""What one accelerator does with CHGNet: relaxations side by side, and gradients through them.

``python -m benchmarks.accelerator --out FILE`` takes at most four minutes, compiling included. Programs compile side
by side; every time is the least of three, with nothing else on the card.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
from ase.build import bulk

from bptt_relax import losses, models, relax, systems, trees, unrolling
from bptt_relax.adjoints import Checkpointed
from bptt_relax.analysis import program_bytes
from bptt_relax.compilation import Programs
from bptt_relax.io import to_structure
from bptt_relax.relax import Theta
from bptt_relax.report.environment import environment
from bptt_relax.training import pack_on_host, relaxed_structure
from bptt_relax.training.train_step import gradient_sum

STEPS = 40
CASES = {33: (1, 16, 28), 63: (1, 16, 64)}
"""Atoms -> structures side by side."""
REPEATS = 3


def main() -> None:
    """Measure, print a table, write a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"))
    parser.add_argument("--atoms", type=int, nargs="*", default=list(CASES))
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    found = measure(arguments.atoms, arguments.steps)
    found["total_s"] = time.perf_counter() - begin
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def measure(atoms: list[int], num_steps: int) -> dict:
    """Times of every case.

    Args:
        atoms: sizes of structures, of `CASES`.
        num_steps: length of the relaxations.
    """
    potential, params = models.load("chgnet-0.3.0")
    rule = relax.chain(relax.momentum(0.03, 0.7), relax.cap_displacement(0.15))
    relaxation = relax.relaxation(potential, rule)
    theta = jax.device_put(pack_on_host(Theta(params, rule.hyper)))
    unrolled = unrolling.unroll(relaxation, num_steps, Checkpointed("force"))
    objective = relaxed_structure(relaxation, unrolled, potential)
    programs = {
        "gradient": Programs(gradient_sum(objective, "side_by_side")),
        "forward": Programs(_forward(relaxation, unrolled)),
    }
    cases = [(n, size, what) for what in programs for n in atoms for size in CASES[n]]
    batches = {(n, size): _batch(potential, n, size) for n in atoms for size in CASES[n]}
    begin, compiled = time.perf_counter(), {}
    for n, size, what in cases:
        programs[what].prepare(theta, *batches[n, size])
    for n, size, what in cases:
        compiled[n, size, what] = programs[what].compiled(theta, *batches[n, size])
    compiling = time.perf_counter() - begin
    rows = []
    for n, size, what in cases:
        program = compiled[n, size, what]
        times = [_seconds(program, theta, batches[n, size]) for _ in range(REPEATS + 1)][1:]
        rows.append(
            {
                "atoms": n,
                "side_by_side": size,
                "what": what,
                "seconds": min(times),
                "temporary_bytes": program_bytes(program),
            }
        )
    return {
        "device": jax.devices()[0].device_kind,
        "steps": num_steps,
        "compiling_s": compiling,
        "rows": rows,
        "environment": environment(),
    }


def _forward(relaxation, unrolled):
    """Where relaxations end, side by side."""

    def one(theta, pair):
        state = relaxation.init(theta, pair.initial, pair.system)
        return losses.delta_q(unrolled(theta, state, pair.system).state.positions, pair.relaxed, pair.system)

    return lambda packed, pairs, counts: jax.vmap(one, (None, 0))(packed.unpack(), pairs)


def _batch(potential, num_atoms: int, size: int):
    """Rattled silicon with a vacancy or an interstitial, each its own, on the device."""
    pairs = []
    layout = None
    for seed in range(size):
        rng = np.random.default_rng([num_atoms, seed])
        atoms = bulk("Si", cubic=True, a=5.475) * ((2, 2, 1) if num_atoms == 33 else (2, 2, 2))
        if num_atoms == 33:
            atoms.append("Si")
            atoms.positions[-1] = (5.475 / 2, 5.475 / 2, 5.475 / 2)
        else:
            del atoms[int(rng.integers(len(atoms)))]
        reference = to_structure(atoms, f"silicon {seed}")
        start = reference._replace(
            positions=reference.positions + rng.normal(scale=0.06, size=(num_atoms, 3))
        )
        layout = layout or systems.plan_layout([start, reference], potential.graph, skin=2.0)
        pairs.append(systems.prepare_pair(start, reference, potential.graph, layout, skin=2.0))
    return jax.device_put((trees.stack_on_host(pairs), np.ones(size, bool)))


def _seconds(program, theta, batch) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program(theta, *batch))
    return time.perf_counter() - start


def table(found: dict) -> str:
    """The rows in words, with ratios."""
    seconds = {(row["atoms"], row["side_by_side"], row["what"]): row for row in found["rows"]}
    lines = [
        f"{found['device']}, CHGNet, {found['steps']} steps, float32; compiled in {found['compiling_s']:.0f} s",
        "",
        "| atoms | side by side | forward ms | gradient ms | ratio | gradients/s | times one alone | us per atom "
        "and step: forward / gradient | gradient MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for atoms, size, what in seconds:
        if what != "gradient":
            continue
        forward, gradient = (seconds[atoms, size, kind] for kind in ("forward", "gradient"))
        alone = min(s for n, s, k in seconds if n == atoms and k == what)
        rate = size / gradient["seconds"]
        gain = rate / (alone / seconds[atoms, alone, what]["seconds"])
        per = 1e6 / (atoms * size * found["steps"])
        lines.append(
            f"| {atoms} | {size} | {1e3 * forward['seconds']:.0f} | {1e3 * gradient['seconds']:.0f} | "
            f"{gradient['seconds'] / forward['seconds']:.2f} | {rate:.1f} | {gain:.1f} | "
            f"{per * forward['seconds']:.2f} / {per * gradient['seconds']:.2f} | "
            f"{gradient['temporary_bytes'] / 1e6:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
