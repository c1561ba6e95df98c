"""The float type of a block of code, whatever JAX's setting."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def precision(*, double: bool) -> Iterator[None]:
    """Run JAX in double or in single precision, whatever its setting, for this thread and this block."""
    if hasattr(jax, "enable_x64"):
        context = jax.enable_x64(double)
    else:  # jax < 0.8
        from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]

        context = enable_x64(double)
    with context:
        yield
