"""Equinox's checkpointed scan over the same step: binomial checkpointing, about sqrt(T) states kept.

Stumm and Walther, doi:10.1137/080742439. Part of equinox.internal: what diffrax and optimistix are built on.
"""

import equinox.internal as eqxi

from benchmarks.contract import Case, Program
from benchmarks.programs import compile_program


class EquinoxScan:
    """`bptt_relax.adjoints.Adjoint` around ``equinox.internal.scan(kind="checkpointed")``."""

    def build(self, relaxation, num_steps, record):
        """See `bptt_relax.adjoints.Adjoint.build`."""
        del record

        def run(theta, carry, system):
            final, _ = eqxi.scan(
                lambda carry, _: (relaxation.advance(relaxation.evaluate, theta, carry, system), None),
                carry,
                None,
                num_steps,
                kind="checkpointed",
            )
            return final, ()

        return run


def build(case: Case) -> Program:
    """See `Entry.build`."""
    return compile_program(case, EquinoxScan(), "gradient")
