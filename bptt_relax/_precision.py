"""The float type of a block of code, and the precision of its matrix products."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import jax

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


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


def full_matmul(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Multiply matrices in the precision of their entries, on any device, unless JAX's own setting says otherwise.

    What GPUs and TPUs do by default, TF32 and bfloat16, keeps three digits: of an edge across a cell of ten angstrom
    that is off by a hundredth of one, and relaxations end elsewhere.

    Args:
        function: traced by JAX.
    """

    @functools.wraps(function)
    def traced(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if jax.config.jax_default_matmul_precision is not None:  # pyright: ignore[reportAttributeAccessIssue]
            return function(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return traced
