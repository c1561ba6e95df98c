"""Reverse mode through `jax.lax.scan` over the step, as one writes it by hand."""

from jax import lax

from benchmarks.contract import Case, Program
from benchmarks.programs import compile_program


class LaxScan:
    """`bptt_relax.adjoints.Adjoint` that is nothing but the scan."""

    def build(self, relaxation, num_steps, record):
        """See `bptt_relax.adjoints.Adjoint.build`."""
        del record

        def run(theta, carry, system):
            final, _ = lax.scan(
                lambda carry, _: (relaxation.advance(relaxation.evaluate, theta, carry, system), None),
                carry,
                None,
                length=num_steps,
            )
            return final, ()

        return run


def build(case: Case) -> Program:
    """See `Entry.build`."""
    return compile_program(case, LaxScan(), "gradient")
