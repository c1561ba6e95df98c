"""How a relaxation ended: integer codes carried through jit, sentences on the host.

Nothing inside a compiled loop raises. A step writes a code into the state, the state is frozen from there
on, and the host reads the code afterwards and says what happened, with the structure's name.
"""

import errno
import os
import sys
import threading
import unicodedata
from collections.abc import Callable
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
        "rebuild the list (systems.rebuild_neighbors) and continue, or use unrolling.relax_through_rebuilds"
    ),
    Outcome.NOT_FINITE: "forces became NaN or infinite: check for overlapping atoms or a step size beyond 2/L",
}


class RelaxationError(RuntimeError):
    """A relaxation ended in a way its caller cannot use."""


class InputError(ValueError):
    """The user's input is at fault. The command line turns it into one sentence and exit code 2."""


class ModelError(RuntimeError):
    """A potential or its weights are at fault (exit code 3)."""


class StorageError(RuntimeError):
    """There is no room, or no permission any more, where results are written (exit code 5)."""


class Interrupted(Exception):  # noqa: N818 - like KeyboardInterrupt, not an error
    """The user, or the queue the program runs in, asked to stop; everything done so far is saved.

    Args:
        message: what was done last, and how to go on.
        signal: its number; that of Ctrl-C when not given.
    """

    def __init__(self, message: str, signal: int = 2):
        super().__init__(message)
        self.signal = signal


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


EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (InputError, 2),
    (ModelError, 3),
    (RelaxationError, 4),
    (FloatingPointError, 4),
    (MemoryError, 5),
    (StorageError, 5),
)
"""What a program exits with: input, model, numerics, resources."""


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)


def why_unwritable(error: BaseException) -> str | None:
    """What keeps a disk from being written, in words; None where the error is none of this kind.

    Args:
        error: an OSError, or what TensorStore makes of one.
    """
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return os.strerror(error.errno)
    if isinstance(error, ValueError) and str(error).startswith("RESOURCE_EXHAUSTED"):
        return next((why for why in map(os.strerror, _UNWRITABLE) if why in str(error)), None)
    return None


def printable(text: str) -> str:
    """Text without what a terminal would obey: control characters and such that turn writing around, as escapes.

    Args:
        text: perhaps with names of files or contents of them in it; line breaks and tabs stay.
    """
    # Lone surrogates stand for bytes of a file name that are no text; printing them would raise.
    return "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode()
        for c in text
    )


def say(text: str, *, error: bool = False) -> None:
    """Print a line as `printable`.

    Args:
        text: perhaps with names of files in it.
        error: to standard error.
    """
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


NO_BACKEND = "Unable to initialize backend"
"""How JAX begins to say that it has no device of the kind that was asked for."""


def run_program(main: Callable[[], int]) -> None:
    """Run a program's main and exit; expected failures become one sentence and their exit code.

    What was interrupted exits with 128 + the number of the signal, as shells have it.

    Args:
        main: returns the exit code of a success.
    """
    # Before JAX is imported: loading a cached CPU program logs pages of processor features (jax issue 38445).
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        code = main()
    except Interrupted as interruption:
        say(str(interruption), error=True)
        code = 128 + interruption.signal
    except tuple(kind for kind, _ in EXIT_CODES) as error:
        say(f"error: {error}", error=True)
        code = next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    except OSError as error:
        if (why := why_unwritable(error)) is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        say(
            f"error: {why}{where}: make room, then go on; what was written before is kept",
            error=True,
        )
        code = 5
    except RuntimeError as error:
        if not str(error).startswith(NO_BACKEND):
            raise
        asked = os.environ.get("JAX_PLATFORMS", "")
        say(
            f"error: JAX_PLATFORMS={asked} asks for a device that JAX has not here ({str(error).splitlines()[0]}): "
            "install the extra cuda12 or cuda13 of this package where there is a GPU, or unset JAX_PLATFORMS",
            error=True,
        )
        code = 2
    if code and any(thread.name.startswith(("compile", "watch")) for thread in threading.enumerate()):
        # Everything is saved. A compilation under way, which can't be called off, would be waited for, and so would
        # other processes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
