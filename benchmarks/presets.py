"""What is measured: three sizes of the same plan."""

from typing import NamedTuple

from benchmarks.contract import Case

SW, CHGNET = "stillinger-weber", "chgnet-0.3.0"

_OURS = ("forward", "full", "step", "force", "segments", "first", "last", "guided", "implicit", "frozen")
_JAX_PEERS = ("lax-scan", "equinox", "optimistix")
_CORE = ("forward", "step", "force")
_TORCH = ("torch-forward", "torch", "torch-checkpointed", "ase")


class Plan(NamedTuple):
    """One comparison.

    Attributes:
        case: what to relax.
        entries: what competes.
        timed: run them; otherwise only compile, for memory.
        isolated: a process for each entry. Costs an import each; needed beside another framework's threads, and
            where resident memory is compared.
        seconds: time for all rounds together; at least two rounds are run.
    """

    case: Case
    entries: tuple[str, ...]
    timed: bool = True
    isolated: bool = False
    seconds: float = 10.0


class Preset(NamedTuple):
    """A plan for a whole run.

    Attributes:
        plans: in order.
        convergence: number of atoms and longest relaxation of `benchmarks.convergence`.
        left_out: what a larger preset would add, in words.
    """

    plans: tuple[Plan, ...]
    convergence: tuple[int, int]
    left_out: tuple[str, ...] = ()


def _sw(atoms: int, steps: int, entries: tuple[str, ...] = _OURS + _JAX_PEERS, **options) -> Plan:
    return Plan(Case(SW, atoms, steps), entries, **options)


def _chgnet(atoms: int, steps: int, entries: tuple[str, ...] = _CORE, **options) -> Plan:
    return Plan(Case(CHGNET, atoms, steps), entries, **options)


PRESETS: dict[str, Preset] = {
    # Every path once, in a minute or two; needs no weights.
    "ci": Preset(
        plans=(
            _sw(7, 8, seconds=2.0),
            _sw(7, 16, seconds=2.0),
            _sw(31, 16, _CORE, isolated=True, seconds=2.0),
        ),
        convergence=(7, 64),
        left_out=("CHGNet and everything it is compared with", "cells and unrolls of a size anybody uses"),
    ),
    "laptop": Preset(
        plans=(
            *(_sw(63, steps) for steps in (16, 64, 256, 1024)),
            *(_sw(atoms, 256, (*_CORE, "full", "implicit")) for atoms in (31, 216)),
            _chgnet(63, 40, (*_CORE, *_TORCH), isolated=True, seconds=100.0),
            _chgnet(63, 16, (*_CORE, "full"), seconds=40.0),
            _chgnet(63, 1024, ("full", "step", "force"), timed=False),
            _chgnet(31, 16, ("forward", "force"), seconds=10.0),
            _chgnet(216, 16, ("forward", "force"), seconds=30.0),
            _chgnet(63, 160, ("forward", "implicit", "implicit-loose"), seconds=60.0),
        ),
        convergence=(31, 160),
        left_out=(
            "CHGNet run for more than 160 steps (memory at 1024 is the compiler's plan), or 16 with 216 atoms",
            "CHGNet with equinox, optimistix, segments, guided and truncated gradients",
        ),
    ),
    "full": Preset(
        plans=(
            *(_sw(atoms, steps) for atoms in (31, 63, 216) for steps in (16, 64, 256, 1024)),
            _chgnet(63, 40, (*_OURS, *_JAX_PEERS, *_TORCH), isolated=True, seconds=300.0),
            *(
                # Where `full` plans for more memory than there is, it is compiled and not run.
                _chgnet(atoms, steps, (*_CORE, "full", "segments", "implicit", "guided"), seconds=120.0)
                for atoms in (31, 63, 216)
                for steps in (16, 64, 256, 1024)
            ),
            _chgnet(63, 160, ("forward", "implicit", "implicit-loose", "optimistix"), seconds=120.0),
        ),
        convergence=(63, 200),
    ),
}
