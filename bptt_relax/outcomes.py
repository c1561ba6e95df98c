"""How a relaxation ended: integer codes carried through jit, sentences on the host.

Nothing inside a compiled loop raises. A step writes a code into the state, the state is frozen from there
on, and the host reads the code afterwards and says what happened, with the structure's name.
"""

from enum import IntEnum


class Outcome(IntEnum):
    """State of one relaxation. Larger is worse; everything but ``RUNNING`` freezes the structure."""

    RUNNING = 0
    CONVERGED = 1
    STALE_NEIGHBORS = 2
    NOT_FINITE = 3


SENTENCES = {
    Outcome.RUNNING: "not converged within the given number of steps",
    Outcome.CONVERGED: "converged",
    Outcome.STALE_NEIGHBORS: (
        "atoms moved further than half the skin of the neighbor list, or a capacity was exceeded; "
        "rebuild the list (systems.rebuild_neighbors) and continue, or use unrolling.with_rebuilds"
    ),
    Outcome.NOT_FINITE: "forces became NaN or infinite: check for overlapping atoms or a step size beyond 2/L",
}


class RelaxationError(RuntimeError):
    """A relaxation ended in a way its caller cannot use."""


class InputError(ValueError):
    """The user's input is at fault. The command line turns it into one sentence and exit code 2."""


class ModelError(RuntimeError):
    """A potential or its weights are at fault (exit code 3)."""


def explain(code: int) -> str:
    """Say in words how a relaxation ended."""
    return SENTENCES[Outcome(int(code))]


def check(code: int, name: str) -> None:
    """Raise on the host when a relaxation can't be used.

    Args:
        code: the ``outcome`` of a relaxation.
        name: what to call the structure in the message.

    Raises:
        RelaxationError: stale neighbors or non-finite forces.
    """
    if int(code) >= Outcome.STALE_NEIGHBORS:
        raise RelaxationError(f"structure {name}: {explain(code)}")
