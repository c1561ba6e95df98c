"""``python -m bptt_relax``, the same as ``bptt-relax``."""

from bptt_relax import cli
from bptt_relax.outcomes import run_program


def main() -> None:
    """Run the command line; expected failures become one sentence and their exit code."""
    run_program(cli.main)


if __name__ == "__main__":
    main()
